"""The documentation site: `make docs` builds it strictly, without a network.

Pages are Markdown, readable on GitHub as they are. `tests/test_docs.py` runs their code.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

HERE = Path(__file__).parent
ROOT = HERE.parent

project = "starburst_executor"
author = "The starburst_executor authors"
project_copyright = "The starburst_executor authors"
release = re.findall(r'"(.+)"', (ROOT / "starburst_executor" / "version.py").read_text(encoding="utf-8"))[-1]
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "_toc.txt"]
smartquotes_action = "D"  # dashes; quotation marks stay as they are in code

# --- Markdown
myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 4

# --- the reference, from docstrings
default_role = "py:obj"  # a link where the name is known, code elsewhere
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# --- names of other projects: lists of the few that are used, so that no build needs a network
intersphinx_mapping = {"python": ("https://docs.python.org/3/", str(HERE / "_build" / "inventories" / "python.inv"))}

# --- looks
html_theme = "furo"
html_title = f"starburst_executor {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
# The list of versions: `_versions.py` puts several sites side by side.
html_js_files = [("versions.js", {"defer": "defer"}), ("switcher.js", {"defer": "defer"})]
templates_path = ["_templates"]
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "sidebar/versions.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}
html_search_scorer = str(HERE / "_scorer.js")
html_copy_source = False
# Prompts and outputs are not copied.
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True


def setup(app: Sphinx) -> None:
    _write_inventories()
    app.connect("source-read", _add_contents)
    app.connect("autodoc-process-docstring", _set_notes_apart, priority=100)  # before napoleon


def _add_contents(app: Sphinx, name: str, source: list[str]) -> None:
    """Append the tree of contents to a page of links; on GitHub, which has no such tree, the links are enough."""
    if name == "index":
        source[0] += (HERE / "_toc.txt").read_text(encoding="utf-8")
        app.env.note_dependency(str(HERE / "_toc.txt"))
    elif name == "design/index":
        source[0] += "\n```{toctree}\n:hidden:\n:glob:\n\n0*\n```\n"


def _write_inventories() -> None:
    """Turn each list of `_inventories` into the file that intersphinx reads: `name domain:role path`, a line each."""
    import zlib

    folder = HERE / "_build" / "inventories"
    folder.mkdir(parents=True, exist_ok=True)
    for source in (HERE / "_inventories").glob("*.txt"):
        rows = [line.split() for line in source.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
        lines = "".join(f"{name} {role} 1 {path} -\n" for name, role, path in rows)
        head = f"# Sphinx inventory version 2\n# Project: {source.stem}\n# Version: \n# The remainder of this file is compressed using zlib.\n"
        (folder / f"{source.stem}.inv").write_bytes(head.encode() + zlib.compress(lines.encode()))


def _set_notes_apart(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Make a paragraph of each line `Raises: …` or `Store: …` and of the indented lines that continue it."""
    changed: list[str] = []
    is_note = False
    for line in lines:
        note = re.match(r"(Raises|Store): (.+)", line)
        if note:
            changed += ["", f"**{note[1]}:** {note[2]}"]
        elif is_note and line[:1] == " ":
            changed.append(line.strip())
        else:
            changed += ["", line] if is_note and line else [line]
        is_note = note is not None or (is_note and line[:1] == " ")
    lines[:] = changed
