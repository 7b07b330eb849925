"""Sessions whose records cannot be read here: the list shows them, and their pages say why instead of asking to wait."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import msgpack
import pytest

from starburst_executor.clock import SystemClock
from starburst_executor.dashboard.app import make_app
from starburst_executor.dashboard.hub import Places
from starburst_executor.dashboard.safety import Access
from starburst_executor.protocol.keys import SessionKeys
from starburst_executor.store.open import open_store
from tests.support.dashboard import Client

ID = "20260401-083000-1f2e3d4c"


@pytest.mark.parametrize(
    ("manifest", "code", "title", "words"),
    [
        (msgpack.packb({"format": 99}), 501, "It was written by another version", "format=99"),
        (b"\xff<script>", 500, "What is stored cannot be read", "not a manifest"),
    ],
)
def test_a_session_that_cannot_be_read_says_why(
    manifest: bytes, code: int, title: str, words: str, tmp_path: Path
) -> None:
    url, access = f"sqlite://{tmp_path}/sessions", Access()
    with closing(open_store(url)) as store:
        store.create(SessionKeys(ID).manifest, manifest)
    app = make_app(Places([url], is_given=True), access, SystemClock())
    with closing(Client(app, {access.cookie_name: access.cookie})) as client:
        assert words in client.get("/").text
        for path in ("", "/tasks", "/workers", "/failures", "/t/0-0", "/metrics"):
            answer = client.get(f"/s/{ID}{path}")
            assert answer.status_code == code, path
            assert f"<h1>{title}</h1>" in answer.text
            assert words in answer.text
