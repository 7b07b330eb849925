"""The `starburst` command: parses arguments, calls the library, prints; decides nothing.

    main.py      the group of all commands, and how errors are shown
    exits.py     exit statuses, and which error has which
    options.py   what several commands take: SESSION, stores, stacks, durations
    inputs.py    what `run` makes calls of
    render.py    tables, JSON and progress, on a terminal and elsewhere
    commands/    one module for each command, or for a few that belong together

It needs the extra `cli`, except for `starburst worker`, which runs wherever the library does.
"""

from __future__ import annotations

import os
import sys

__all__ = ["entry"]

_USAGE = 2
_INTERRUPTED = 130


def entry(arguments: list[str] | None = None) -> int:
    """Run one command and return the process's exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        return _run(words)
    except KeyboardInterrupt:  # while modules are loaded; later ones are those of the command
        _open_streams()
        sys.stderr.write("\nstarburst: interrupted\n")
        return _INTERRUPTED


def _run(words: list[str]) -> int:
    # Before click is loaded: images of workers do not contain it.
    if words[:1] == ["worker"]:
        from starburst_executor.worker.__main__ import main as work

        return work(words[1:])
    try:
        import click  # noqa: F401 - to tell a missing extra from a fault of ours
        import rich  # noqa: F401
        import tomlkit  # noqa: F401
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"starburst: {error.name} is not installed: type `{sys.executable} -m pip install 'starburst-executor[cli]'`; "
            "`starburst worker` needs nothing more\n"
        )
        return _USAGE
    from starburst_executor.cli.main import run

    _open_streams()
    return run(words)


def _open_streams() -> None:
    """See to it that every standard stream can be used: one may be closed, and its encoding may lack a character."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - it lasts as long as the process
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
