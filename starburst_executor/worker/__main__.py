"""`python -m starburst_executor.worker <session-url>`: one worker, for both executors and every launcher.

A worker that is started by hand takes its key from `STARBURST_KEY` or the key file. A worker that a launcher starts on the
same machine reads one bootstrap record from its standard input: key, module path, worker id. In a container on AWS it
derives its id from the container, and reads the key with its role. The key is never on the command line. A fork server runs
no tasks; it forks workers, each of which reads its own bootstrap record (`fork_server.py`).
"""

from __future__ import annotations

import argparse
import sys

from starburst_executor.errors import ConfigError
from starburst_executor.launch.bootstrap import PLATFORMS
from starburst_executor.launch.limits import MOST_SLOTS
from starburst_executor.protocol.resources import resources_of
from starburst_executor.worker import program


def main(arguments: list[str] | None = None) -> int:
    """Run one worker, or a fork server; return the process's exit status."""
    options = _parser().parse_args(arguments)
    if options.fork_server:
        from starburst_executor.worker import fork_server

        return fork_server.run(options.url, log_level=options.log_level)
    return program.run(
        options.url,
        options.slots,
        log_level=options.log_level,
        launched=options.bootstrap,
        platform=options.platform,
        resources=tuple(options.resource),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m starburst_executor.worker",
        description="Run the tasks of one session until it is over or there is nothing to do.",
        epilog="The session's key is taken from STARBURST_KEY or made from the key file; never from the command line.",
    )
    parser.add_argument("url", help="the session's URL, as `executor.url` gives it")
    parser.add_argument("--slots", type=_slots, default=None, help="tasks at once (default: one per processor)")
    parser.add_argument(
        "--resource",
        action="append",
        default=[],
        type=_resource,
        metavar="NAME=N",
        help="what this worker has for tasks that ask for it, such as gpu=2, memory=64GB or license=1 (default: the processors, memory "
        "and NVIDIA GPUs that it finds)",
    )
    parser.add_argument("--log-level", default="warning", choices=["debug", "info", "warning", "error"])
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--bootstrap", action="store_true", help="for launchers: read key and path from standard input")
    how.add_argument(
        "--fork-server", action="store_true", help="for launchers: fork workers on requests from standard input"
    )
    how.add_argument(
        "--platform",
        choices=PLATFORMS,
        help="for launchers on AWS: read key and id from the container's environment on this platform",
    )
    return parser


def _resource(text: str) -> tuple[str, int]:
    name, _, amount = text.partition("=")
    try:
        ((name, number),) = resources_of({name: int(amount) if amount.isdecimal() else amount}, may_be_zero=True)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return name, number


def _slots(text: str) -> int:
    n_slots = int(text) if text.isdecimal() else 0
    if not 1 <= n_slots <= MOST_SLOTS:
        raise argparse.ArgumentTypeError(f"must be 1..{MOST_SLOTS}, not {text!r}")
    return n_slots


if __name__ == "__main__":
    sys.exit(main())
