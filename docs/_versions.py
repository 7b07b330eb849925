"""Puts a built site beside those of other versions: `python docs/_versions.py BUILT SITE NAME`. Needs no network.

    SITE/index.html                    leads to the newest release; to `main` while there is none
    SITE/<version>/                    a site as `make site` builds it
    SITE/<version>/_static/versions.js the list of all of them, written anew each time, into old versions too
    SITE/<version>/_static/pages.js    the pages that this version has

NAME is that of the branch or tag: `v1.2.0` is version 1.2.0. `_static/switcher.js` reads both files in the browser.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

__all__ = ["add"]

_MAIN = "main"
_START = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>starburst_executor</title>
<meta http-equiv="refresh" content="0; url={0}/index.html">
<p><a href="{0}/index.html">starburst_executor {0}</a></p>
</html>
"""


def add(built: Path, site: Path, name: str) -> None:
    """Add a built site under the version of this branch or tag, in place of an older one; others stay."""
    version = re.sub(r"^v(?=\d)", "", name)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", version):
        raise SystemExit(f"not the name of a version: {name!r}")
    if not (built / "index.html").is_file():
        raise SystemExit(f"no site was built in {built}")
    shutil.rmtree(site / version, ignore_errors=True)
    shutil.copytree(built, site / version, ignore=shutil.ignore_patterns(".doctrees", ".buildinfo*"))
    versions = sorted((path.parent.name for path in site.glob("*/index.html")), key=_order, reverse=True)
    for one in versions:
        pages = sorted(page.relative_to(site / one).as_posix() for page in (site / one).rglob("*.html"))
        _write(site / one / "_static" / "versions.js", "siteVersions", versions)
        _write(site / one / "_static" / "pages.js", "sitePages", pages)
    releases = [one for one in versions if one != _MAIN]
    finals = [one for one in releases if re.fullmatch(r"[\d.]+", one)]
    (site / "index.html").write_text(_START.format([*finals, *releases, *versions][0]), encoding="utf-8")
    (site / ".nojekyll").touch()  # GitHub Pages leaves out folders with an underscore otherwise


def _order(version: str) -> tuple[bool, list[int], bool, str]:
    """Return what sorts versions: main after all releases, 1.10 after 1.9, a release after its candidates."""
    numbers = re.match(r"[\d.]*", version)
    assert numbers is not None  # it matches the empty text too  # noqa: S101
    parts = [int(part) for part in numbers[0].split(".") if part]
    return version == _MAIN, parts, numbers[0] == version, version


def _write(path: Path, name: str, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"window.{name} = {json.dumps(value, indent=1)};\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 4:  # noqa: PLR2004 - what the first line says
        raise SystemExit(__doc__)
    add(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
