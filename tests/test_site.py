"""The documentation site: it is built without a warning and without a network, and has every page and every public name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import starburst_executor
from tests.support.moto_server import ROOT
from tests.test_docs import PAGES

DOCS = ROOT / "docs"
BUILD_S = 600
pytestmark = pytest.mark.timeout(BUILD_S)
# Nothing but these may be asked for by a page when it is opened.
OUTSIDE = re.compile(r"""<(?:script|link|img)\b[^>]*?(?:src|href)=["']((?:https?:)?//[^"']+)""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. A warning is an error, as in `make site`."""
    pytest.importorskip("sphinx", reason="the site is built where the extra `docs` is installed")
    folder = tmp_path_factory.mktemp("site")
    # No way out: whatever wants the network fails, and warns.
    environment = {**os.environ, "https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "--builder", "html",
         "--doctree-dir", folder / "doctrees", DOCS, folder / "html"],
        env=environment, capture_output=True, text=True, timeout=BUILD_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "html"


def test_every_page_is_built(site: Path) -> None:
    pages = [page.relative_to(DOCS).with_suffix(".html") for page in PAGES if page.is_relative_to(DOCS)]
    assert [str(page) for page in pages if not (site / page).exists()] == []


def test_every_public_name_is_in_the_reference_from_docstrings(site: Path) -> None:
    page = (site / "reference" / "api.html").read_text(encoding="utf-8")
    names = [name for name in starburst_executor.__all__ if name != "__version__"]
    assert [name for name in names if not re.search(rf'id="starburst_executor\.(?:errors\.)?{name}"', page)] == []


def test_a_page_asks_for_nothing_from_elsewhere(site: Path) -> None:
    found = {page.name: OUTSIDE.findall(page.read_text(encoding="utf-8")) for page in site.rglob("*.html")}
    assert {name: addresses for name, addresses in found.items() if addresses} == {}


def test_a_page_finds_names_of_the_standard_library(site: Path) -> None:
    page = (site / "reference" / "api.html").read_text(encoding="utf-8")
    assert "https://docs.python.org/3/library/concurrent.futures.html#concurrent.futures" in page


def test_every_page_has_the_list_of_versions(site: Path) -> None:
    pages = {page.relative_to(site): page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    lacking = [
        name
        for name, text in pages.items()
        if f'<option value="">{starburst_executor.__version__}</option>' not in text
    ]
    assert lacking == []
    # Both files that a page of several versions reads are there in a site by itself.
    assert all((site / "_static" / name).exists() for name in ("versions.js", "switcher.js"))


def test_versions_stand_side_by_side(site: Path, tmp_path: Path) -> None:
    for name in ("v0.9.0", "v0.10.0", "main"):
        words = [sys.executable, DOCS / "_versions.py", site, tmp_path / "all", name]
        subprocess.run(words, check=True, timeout=BUILD_S)
    for version in ("0.9.0", "0.10.0", "main"):
        text = (tmp_path / "all" / version / "_static" / "versions.js").read_text(encoding="utf-8")
        assert re.findall('"(.+?)"', text) == ["main", "0.10.0", "0.9.0"]
        assert "howto/costs.html" in (tmp_path / "all" / version / "_static" / "pages.js").read_text(encoding="utf-8")
    assert "0.10.0/index.html" in (tmp_path / "all" / "index.html").read_text(encoding="utf-8")
    odd = subprocess.run(
        [sys.executable, DOCS / "_versions.py", site, tmp_path / "all", "../x"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (odd.returncode, "not the name of a version" in odd.stderr) == (1, True)
