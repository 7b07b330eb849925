"""URLs and the stores they name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from starburst_executor.errors import ConfigError
from starburst_executor.store.open import open_store
from starburst_executor.store.s3.store import S3Store
from starburst_executor.store.sqlite.store import SqliteStore
from starburst_executor.testing.memory import MemoryStore
from tests.support.moto_server import ROOT


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "/a/path",
        "sqlite:",
        "sqlite://relative/path",
        "sqlite:relative",
        "sqlite:///path?mode=ro",
        "sqlite:///path#1",
        "sqlite://",
        "sqlite:///",
        "sqlite:////",
        "sqlite:///.",
        "sqlite:///~",
        "sqlite:///~/sessions",
        "sqlite://~/sessions",
        "sqlite:~/sessions",
        "sqlite://./sessions",
        "sqlite:///path%00",
        "sqllite:///path",
        "sqlite3:///path",
        "file:///path",
        "s4://bucket/prefix",
        "s3:bucket/prefix",
        "s3:/bucket/prefix",
        "gs://bucket/prefix",
        "http://bucket/prefix",
        "s3://",
        "s3:///prefix",
        "s3://key:secret@bucket/prefix",
        "s3://bucket/prefix?aws_secret_access_key=x",
        "s3://bucket/prefix#fragment",
        "memory://",
        "memory://a/b",
    ],
)
def test_what_names_no_store(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        open_store(url)
    assert "://" in str(refused.value) or "takes" in str(refused.value)
    assert "secret@" not in str(refused.value)


@pytest.mark.parametrize("slashes", ["/", "///", "////", "/////"])
@pytest.mark.parametrize("end", ["", "/", "//"])
def test_an_absolute_path_may_have_more_slashes(tmp_path: Path, slashes: str, end: str) -> None:
    """Four, as SQLAlchemy wants them; one, as some libraries do."""
    store = open_store(f"sqlite:{slashes}{str(tmp_path)[1:]}{end}")
    store.put("sessions/s/manifest", b"x")
    assert store.url == f"sqlite://{tmp_path}"
    assert (tmp_path / "s.db").exists()
    store.close()


@pytest.mark.parametrize(
    "name",
    ["plain", "with space", "100%", "%41", "a?b", "a#b", "ümlaut", "not-utf-8-\udcff\udc80", "new\nline", "semi;colon"],
)
def test_any_folder_comes_back_from_its_url(tmp_path: Path, name: str) -> None:
    store = SqliteStore(tmp_path / name)
    store.put("sessions/s/manifest", b"x")
    store.close()
    other = open_store(store.url)
    assert other.url == store.url
    assert [line.key for line in other.list("sessions/s/")] == ["sessions/s/manifest"]
    other.close()
    assert (tmp_path / name / "s.db").exists()


def test_a_memory_store_is_found_by_its_name() -> None:
    made = MemoryStore()
    assert open_store(made.url) is made
    assert open_store("memory://test-open") is open_store("memory://test-open")


def test_what_an_s3_url_says_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    for url in (
        "s3://bucket/a/prefix?endpoint_url=http://localhost:9000&region=eu-west-1",
        "s3://bucket?endpoint_url=http://localhost:9000&region=eu-west-1&etag_quotes=no",
        "s3://bucket/prefix?region=eu-central-1",
    ):
        store = open_store(url)
        assert isinstance(store, S3Store)
        assert store.url == url
        assert store.is_aws == ("endpoint_url" not in url)
        store.close()


@pytest.mark.parametrize("url", ["sqlite:///nowhere/sessions", "s3://bucket/prefix?region=us-east-1"])
def test_what_is_preloaded_is_not_loaded_again(url: str) -> None:
    """Fifty forks of a process would each do it."""
    program = """
import sys, threading
import os
import subprocess
import sys
from pathlib import Path
from starburst_executor.store.open import open_store, preload
preload(sys.argv[1])
before, read = set(sys.modules), []
sys.addaudithook(lambda event, args: read.append(str(args[0])) if event == "open" else None)
open_store(sys.argv[1]).url
print(*sorted(set(sys.modules) - before), *(name for name in read if name.endswith((".json", ".json.gz"))))
print(threading.active_count())
"""
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    command = [sys.executable, "-c", program, url]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "\n1\n"
