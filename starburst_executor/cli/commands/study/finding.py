"""Finds the study that a user means: by its name in a store, or by the YAML file that describes it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from starburst_executor import config
from starburst_executor.cli.options import store_option
from starburst_executor.cli.targets import load_module, load_target
from starburst_executor.errors import ConfigError, StarburstError

if TYPE_CHECKING:
    from starburst_executor.study.objects import StudyObjects
    from starburst_executor.study.status import StudyStatus
    from starburst_executor.study.study import Study

    _ParamType = click.ParamType[Any]
else:  # older versions of click have no parameter for it
    _ParamType = click.ParamType

__all__ = [
    "StudyName",
    "is_file",
    "looked_at",
    "objects_of",
    "of_file",
    "place",
    "store_url",
    "stored",
    "studies",
    "study_argument",
]

F = TypeVar("F", bound=Callable[..., Any])
_SUFFIXES = (".yaml", ".yml")


class StudyName(_ParamType):
    """A study's name, or a YAML file that describes one."""

    name = "study"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002 - click's signature
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002 - click's signature
        try:
            names = studies().names(store_url(ctx.params.get("store")))
        except StarburstError:  # a shell cannot show errors while it completes a word
            names = []
        files = [str(path) for suffix in _SUFFIXES for path in Path().glob(f"*{suffix}")]
        return [CompletionItem(name) for name in [*names, *sorted(files)] if name.startswith(incomplete)]


def study_argument(command: F) -> F:
    """STUDY and `--store`; the command gets `named` and `store`."""
    return click.argument("named", metavar="STUDY", type=StudyName())(store_option(command))


def studies() -> type[Study]:
    """Load what studies need. Raises: ConfigError without the extra."""
    try:
        import starburst_executor.study.yaml  # noqa: F401 - whether the extra is there
        from starburst_executor.study.study import Study
    except ImportError as error:
        raise ConfigError(
            f"studies need an extra: pip install 'starburst-executor[cli,study]' ({error.name or error} is missing)"
        ) from error
    return Study


def store_url(named: str | None) -> str:
    """Return the URL of the store that is named, or else configured. Raises: ConfigError."""
    return config.store_to_read(named)


def is_file(named: str) -> bool:
    """Return whether a text names a file, not a study."""
    return named.endswith(_SUFFIXES)


def of_file(named: str, store: str | None, name: str | None = None, **settings: Any) -> Study:
    """Return the study of a YAML file, perhaps under another name; its functions are looked for from the file's folder."""
    kind = studies()
    from starburst_executor.study.yaml import read_study

    path = Path(named)
    folder = path.absolute().parent
    found, stages = read_study(path, functools.partial(_load, folder), functools.partial(_load_module, folder))
    given: dict[str, Any] = {"launcher": found.launcher, "workers": found.workers, "budget_usd": found.budget_usd}
    given |= {name: value for name, value in settings.items() if value is not None}
    url = store_url(store or found.store)
    return kind(name or found.study, stages, store=url, seed=found.seed, keep=found.keep, **given)


def _load(folder: Path, target: str) -> Callable[..., Any]:
    where, colon, name = target.rpartition(":")
    return load_target(f"{_seen_from(folder, where)}{colon}{name}")


def _load_module(folder: Path, where: str) -> Any:
    return load_module(_seen_from(folder, where))


def _seen_from(folder: Path, where: str) -> str:
    """Return the path of a script, or the name of a module, which can be imported from the folder too."""
    if where.endswith(".py"):
        return str(folder / where)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return where


def stored(named: str, store: str | None, **settings: Any) -> Study:
    """Return a study that is in the store, with its stored functions, by its name or by the file that describes it."""
    name, url = place(named, store)
    return studies().resume(name, store=url, **settings)


@contextmanager
def objects_of(named: str, store: str | None) -> Iterator[StudyObjects]:
    """Yield the stored objects of a study. It loads no function and needs no key."""
    name, url = place(named, store)
    from starburst_executor.study.opened import OpenedStudy, open_studies

    opened = OpenedStudy(name, open_studies(url), None)
    with closing(opened.store):
        yield opened.objects


@contextmanager
def looked_at(named: str, store: str | None) -> Iterator[Callable[[], StudyStatus]]:
    """Yield what reads the status of a study. It loads no function and needs no key."""
    from starburst_executor.study.status import status_of
    from starburst_executor.study.wheel import read_holder

    with objects_of(named, store) as objects:
        yield lambda: status_of(objects.read(), read_holder(objects.store, objects.keys.driver))


def place(named: str, store: str | None) -> tuple[str, str]:
    """Return a study's name and its store."""
    studies()
    if not is_file(named):
        return named, store_url(store)
    from starburst_executor.study.yaml import read_head

    name, url = read_head(Path(named))
    return name, store_url(store or url)
