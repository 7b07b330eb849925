"""Optuna as this package uses it: imported when it is needed, and with one name for all of its studies."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from starburst_executor.errors import ConfigError

__all__ = ["STUDY_NAME", "check_part", "optuna_module", "part_name", "quiet", "trial_id_of"]

STUDY_NAME = "stage"  # of every Optuna study: nothing that a sampler or a pruner sees depends on the name of ours


def optuna_module() -> Any:
    """Import Optuna. Raises: ConfigError: the extra is missing."""
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            f"Optuna's samplers and pruners need an extra: pip install 'starburst-executor[search]' ({error.name} is missing)"
        ) from error
    return optuna


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna reports each study that it creates: ours is said in our own words."""
    optuna = optuna_module()
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def part_name(given: Any) -> str:
    """Return the name of a sampler or pruner that a user described: by a class's name, a class, a function, or as an object."""
    return given if isinstance(given, str) else getattr(given, "__qualname__", type(given).__qualname__)


def check_part(kind: str, given: object, make: Callable[[], object], where: str) -> None:
    """Check that a sampler or pruner that a user described can be made, and pickled.

    Args:
        kind: `sampler` or `pruner`.
        make: Makes what `given` describes.
    Raises: ConfigError: Optuna has none of that name; it cannot be made; it is something else.
    """
    classes = getattr(optuna_module(), f"{kind}s")
    base = getattr(classes, f"Base{kind.title()}")
    if isinstance(given, str):
        known = [name for name in classes.__all__ if name.endswith(kind.title()) and name != base.__name__]
        if given not in known:
            raise ConfigError(f"{where}: {kind}={given!r}: no {kind} of Optuna: there are {', '.join(known)}")
    try:
        made = make()
        pickle.dumps(made)
    except Exception as error:
        raise ConfigError(f"{where}: the {kind} cannot be made: {type(error).__name__}: {error}") from error
    if not isinstance(made, base):
        raise ConfigError(f"{where}: {kind}={given!r}: makes a {type(made).__name__}, which is no {kind} of Optuna")


def trial_id_of(storage: Any, number: int) -> int:
    """Return the id that a storage gives to a trial of its only study."""
    found: int = storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name(STUDY_NAME), number)
    return found
