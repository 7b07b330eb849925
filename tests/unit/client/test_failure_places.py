"""Where a failure happened: the same line of the same module is one place, whichever worker ran it."""

from __future__ import annotations

import pytest

from starburst_executor.client.failing import place_of
from starburst_executor.worker.code_root import new_name


@pytest.mark.parametrize(
    ("file", "place"),
    [
        (f"/tmp/{new_name()}/{'0f' * 32}-1/tasks.py", "tasks.py:23 in work"),
        (f"/var/folders/x y/{new_name()}/{'0f' * 32}-12/lab/tasks.py", "lab/tasks.py:23 in work"),
        ("/home/me/tasks.py", "/home/me/tasks.py:23 in work"),
        ("<string>", "<string>:23 in work"),
    ],
)
def test_the_folder_of_a_worker_is_no_part_of_a_place(file: str, place: str) -> None:
    frames = f'  File "/usr/lib/python3/x.py", line 1, in run\n  File "{file}", line 23, in work\n    fail()\n'
    assert place_of(f"Traceback (most recent call last):\n{frames}ValueError: 3") == place


def test_without_a_traceback_there_is_no_place() -> None:
    assert place_of("the process that ran the task died") == ""
