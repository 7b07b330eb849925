"""Sizes of Fargate: those that there are, and the nearest where there is none."""

from __future__ import annotations

import pytest

from starburst_executor.errors import ConfigError
from starburst_executor.launch.aws.sizes import Size, fargate_size, memory_mib


@pytest.mark.parametrize(
    ("cpu", "memory", "size"),
    [
        (0.25, None, (0.25, 512)),
        (0.25, "512MB", (0.25, 512)),
        (0.5, None, (0.5, 1024)),
        (1, None, (1, 2048)),
        (4, "8GB", (4, 8192)),
        (4, "30 GiB", (4, 30720)),
        (8, None, (8, 16384)),
        (16, "120G", (16, 122880)),
    ],
)
def test_sizes_that_there_are(cpu: float, memory: str | None, size: tuple[float, int]) -> None:
    found = fargate_size(cpu, memory)
    assert found == size
    assert found.cpu_units == size[0] * 1024


@pytest.mark.parametrize(
    ("cpu", "memory", "nearest"),
    [
        (4, "7GB", 'cpu=4, memory="8GB"'),
        (3, None, 'cpu=4, memory="8GB"'),
        (1, "9GB", 'cpu=2, memory="9GB"'),
        (8, "17GB", 'cpu=8, memory="20GB"'),
        (0.25, "1500MB", 'cpu=0.25, memory="2GB"'),
        (2, "31GB", 'cpu=8, memory="32GB"'),
    ],
)
def test_the_nearest_size_has_at_least_as_much_of_both(cpu: float, memory: str | None, nearest: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fargate_size(cpu, memory)
    assert str(caught.value).endswith(f"the nearest is {nearest}")


@pytest.mark.parametrize(
    ("cpu", "memory", "words"),
    [
        (32, None, "at most 16 vCPUs and 120 GB"),
        (1, "200GB", "at most 16 vCPUs and 120 GB"),
        (0, None, "must be one of 0.25, 0.5, 1, 2, 4, 8, 16"),
        (True, None, "must be one of"),
        (float("nan"), None, "must be one of"),
        (1, "2", "must be a size such as"),
        (1, "0GB", "must be a size such as"),
        (1, "0.0001GB", "must be a size such as"),
    ],
)
def test_what_is_no_size(cpu: float, memory: str | None, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        fargate_size(cpu, memory)


def test_elsewhere_any_size_is_one() -> None:
    assert Size.of(3, None) == (3, 6144)
    assert Size.of(3, "500MB") == (3, memory_mib("500MB")) == (3, 500)
