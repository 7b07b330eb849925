"""The `starburst` command: parses arguments, calls the library, prints; decides nothing.

    main.py      the group of all commands, their registration, and the output of errors
    options.py   options that several commands share
    others       one file per noun

All commands need the extra `cli`, except `starburst worker`, which needs only the library.

    exit status   0   success
                  1   the answer is no: a check of `doctor` failed, or the user declined a question
                  2   wrong arguments, or the extra `cli` is not installed
                  3   failure; standard error gives the reason in one line
                  130 interrupted by ^C
"""

from __future__ import annotations

import sys

__all__ = ["entry"]

EXIT_NO = 1
EXIT_USAGE = 2
EXIT_FAILED = 3
EXIT_INTERRUPTED = 130


def entry(arguments: list[str] | None = None) -> int:
    """Run one command and return the process's exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    # Before click is loaded: images of workers do not contain it.
    if words[:1] == ["worker"]:
        from starburst_executor.worker.__main__ import main as work

        return work(words[1:])
    try:
        import click  # noqa: F401 - to tell a missing extra from a fault of ours
        import tomlkit  # noqa: F401
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"starburst: {error.name} is not installed: type `{sys.executable} -m pip install 'starburst-executor[cli]'`; "
            "`starburst worker` needs nothing more\n"
        )
        return EXIT_USAGE
    from starburst_executor.cli.main import run

    return run(words)
