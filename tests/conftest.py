"""Fixtures of every test: a separate environment, so that no test reads or writes the settings of the user who runs it."""

from __future__ import annotations

import gc
import itertools
import os
import signal
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest

from tests.support.left_behind import LeftBehind

# No test asks for a machine image, and moto makes a thousand of them each time that an account begins.
os.environ.setdefault("MOTO_AMIS_PATH", str(Path(__file__).with_name("support") / "no_amis.json"))
# A busy machine draws examples slowly, and now and then stops over one, which says nothing about them; `within_cpu_s` bounds
# what they cost.
# The same examples in every run, so that a commit is green on any day; `make stress` searches with fresh ones (profile `search`).
_BUSY = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("busy", _BUSY, derandomize=True)
hypothesis.settings.register_profile("search", _BUSY, derandomize=False, max_examples=2_000)
hypothesis.settings.load_profile("busy")
_numbers = itertools.count()


def pytest_configure(config: pytest.Config) -> None:
    # A shell without job control starts what runs in its background with SIGINT ignored, and children inherit that: then no
    # test could interrupt one.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.pluginmanager.register(LeftBehind(config), "left-behind")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Have the garbage collector leave alone what collection makes: it is half a million objects, and they stay to the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Refuse a set: its order differs from process to process, and then pytest-xdist runs nothing."""
    for mark in metafunc.definition.iter_markers("parametrize"):
        if any(isinstance(values, (set, frozenset)) for values in mark.args):
            raise pytest.UsageError(f"{metafunc.definition.nodeid}: parametrized by a set, which has no order")


@pytest.fixture(autouse=True)
def starburst_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh `STARBURST_HOME`, inherited by the processes that a test starts; every other `STARBURST_*` is gone."""
    for name in list(os.environ):
        if name.startswith("STARBURST_"):
            monkeypatch.delenv(name)
    # With a number of our own: pytest's needs a look at all folders there are, which are thousands in a whole run.
    home = tmp_path_factory.mktemp(f"starburst_home-{next(_numbers)}", numbered=False)
    monkeypatch.setenv("STARBURST_HOME", str(home))
    return home
