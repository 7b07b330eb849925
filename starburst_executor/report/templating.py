"""The one kind of template environment: of reports and of the dashboard. Every value is escaped, and its controls are signs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starburst_executor.errors import ConfigError

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["environment", "kind_name", "markup", "visible"]

# Controls of C0 but tab and newline, as their pictures; DEL; C1; directions and isolates of text.
_CONTROLS = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {0x7F: 0x2421}
_CONTROLS |= dict.fromkeys([*range(0x80, 0xA0), 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)], 0xFFFD)
_CONTROLS |= dict.fromkeys(range(0xD800, 0xE000), 0xFFFD)  # of names of files, which may be any bytes: UTF-8 has none
_MISSING = "a report needs Jinja2: pip install 'starburst-executor[report]'"


def environment(package: str) -> Environment:
    """Return the templates of a package. Raises: ConfigError if Jinja2 is not installed."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise ConfigError(_MISSING) from error
    found = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        finalize=visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["kind"] = kind_name
    return found


def kind_name(name: str) -> str:
    """Return the name of an exception's class as users know it: without the module of Python's and this library's own."""
    return name.removeprefix("builtins.").removeprefix("starburst_executor.errors.")


def markup(text: str) -> Any:
    """Return text that templates do not escape: this package made it, and escaped what it contains. Raises: as `environment`."""
    try:
        from markupsafe import Markup
    except ImportError as error:
        raise ConfigError(_MISSING) from error
    return Markup(text)  # noqa: S704 - as said


def visible(value: Any) -> Any:
    """Return text with its controls as signs: some are not valid in HTML, others turn the direction of what follows."""
    return value.translate(_CONTROLS) if type(value) is str else value
