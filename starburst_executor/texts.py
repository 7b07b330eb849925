"""Words and numbers for people, as short as they must be."""

from __future__ import annotations

__all__ = ["shortened", "usd_text"]


def shortened(text: str, most: int) -> str:
    """Return a text of at most `most` characters, the last of them "…" if there were more."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def usd_text(usd: float) -> str:
    """Return an amount of dollars: cents from a dollar on, and hundredths of them below."""
    return f"${usd:,.2f}" if usd >= 1 else f"${usd:.4f}" if usd else "$0"
