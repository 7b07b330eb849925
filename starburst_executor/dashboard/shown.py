"""The process that unpickles calls and results for the dashboard, and prints them as text. It runs code of the session.

Reads one JSON object from standard input: `url`, `tasks` and `kind`; finds the session's key as every command does. Prints a JSON list of texts as its last line; what unpickled
code prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys

from starburst_executor.client.failing import shown_call
from starburst_executor.client.finding import visit
from starburst_executor.client.reading import Reading
from starburst_executor.clock import SystemClock
from starburst_executor.errors import StarburstError
from starburst_executor.protocol import outcomes

__all__ = ["main"]

_MOST_CHARACTERS = 16_000


def main() -> None:
    """Answer the one request on standard input."""
    order = json.load(sys.stdin)
    answer = os.dup(1)
    os.dup2(2, 1)  # from now on all that is printed goes to standard error
    with visit(order["url"], SystemClock()) as visited:
        reading = Reading(visited.session)
        texts = [_text(reading, task, order["kind"]) for task in order["tasks"]]
    with os.fdopen(answer, "w", encoding="utf-8") as stream:
        stream.write("\n" + json.dumps(texts))


def _text(reading: Reading, task_id: str, kind: str) -> str:
    try:
        block, task = reading.find(task_id)
        if kind == "call":
            return shown_call(reading, block, task)
        reading.session.manifest.check_python()
        body = reading.outcome(block, task)
        if body is None:
            return "(no result)"
        value, error = outcomes.load_outcome(body)
        return repr(value if error is None else error)[:_MOST_CHARACTERS]
    except StarburstError as error:
        return f"(cannot be shown: {error})"
    except Exception as error:  # user code runs here: __setstate__, __repr__
        return f"(cannot be shown: {type(error).__name__}: {error})"


if __name__ == "__main__":
    main()
