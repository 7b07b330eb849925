"""Resources as users give them, and as keys have them."""

from __future__ import annotations

import re

import pytest

from starburst_executor.errors import ConfigError
from starburst_executor.protocol.options import DEFAULT
from starburst_executor.protocol.resources import RESOURCES, amounts_of, are_met, resources_of, text_of


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("8GB", 8 * 10**9), ("512MiB", 2**29), ("1.5g", 15 * 10**8), ("1000", 1000), ("2 TB", 2 * 10**12), ("3ki", 3072)],
)
def test_memory_may_be_a_text_with_a_unit(text: str, n_bytes: int) -> None:
    assert resources_of({"memory": text}) == (("memory", n_bytes),)


@pytest.mark.parametrize(
    "given",
    [{"GPU": 1}, {"gpu": 0}, {"gpu": -1}, {"gpu": 1.0}, {"gpu": True}, {"gpu": "1"}, {"": 1}, {"a-b": 1}, {"memory": "much"},
     {"memory": "8XB"}, {"a" * 33: 1}, {"gpu": 10**16}, {1: 1}, {f"n{i}": 1 for i in range(9)}],
)  # fmt: skip
def test_what_is_no_resource_is_refused(given: dict[object, object]) -> None:
    with pytest.raises(ConfigError):
        resources_of(given)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        DEFAULT.but(resources=given)


def test_keys_have_them_sorted_and_they_are_read_back() -> None:
    amounts = resources_of({"memory": "8GB", "gpu": 1, "cpu": 2})
    assert text_of(amounts) == "2xcpu.1xgpu.8000000000xmemory"
    assert amounts_of(text_of(amounts)) == amounts
    assert re.fullmatch(RESOURCES, text_of(amounts))
    assert amounts_of("") == ()
    assert are_met("2xcpu.1xgpu", {"cpu": 2, "gpu": 3})
    assert not are_met("2xcpu.1xgpu", {"cpu": 2})


def test_they_are_no_part_of_the_options_that_a_status_object_stores() -> None:
    assert DEFAULT.but(resources={"gpu": 1}, priority=3).encode() == b""
    assert DEFAULT.but(resources={}).resources is None
