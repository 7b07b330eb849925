"""Values that msgpack can hold, nested, as hypothesis draws them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

__all__ = ["plain_values"]


def plain_values(*, most_items: int, most_leaves: int) -> st.SearchStrategy[Any]:
    """Draw plain values, in lists of up to `most_items` and maps."""
    return st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats()
        | st.text(max_size=5)
        | st.binary(max_size=5),
        lambda inner: st.lists(inner, max_size=most_items) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=most_leaves,
    )
