"""What is left of a crash's report: the user's frames, and all that is not a frame."""

from __future__ import annotations

from pathlib import Path

import pytest

from starburst_executor.worker.runner import crash, process

OURS = f'  File "{Path(process.__file__).parent}/process.py", line 209 in _perform\n'
REPORT = f"""printed before
Fatal Python error: Segmentation fault

Thread 0x00007f3d00a9bb80 (most recent call first):
  File "/home/me/thread.py", line 7 in run
  File "/usr/lib/python3.11/threading.py", line 982 in _bootstrap

Current thread 0x00007f3d00a9bb81 (most recent call first):
  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at
  File "/home/me/script.py", line 3 in crash
{OURS}  File "/usr/lib/python3.11/runpy.py", line 3 in run
  ...

Extension modules: msgpack._cmsgpack (total: 1)
"""


def test_each_stack_ends_where_the_users_code_was_called() -> None:
    left = crash.users_frames(REPORT.encode()).decode()
    assert "/home/me/thread.py" in left
    assert "/home/me/script.py" in left
    assert "process.py" not in left
    assert "runpy" not in left
    assert left.startswith("printed before\n")
    assert left.endswith("\n\nExtension modules: msgpack._cmsgpack (total: 1)\n")


@pytest.mark.parametrize("text", ["", "no crash\n", OURS, "Fatal Python error: Aborted\n"])
def test_other_text_stays_as_it_is(text: str) -> None:
    assert crash.users_frames(text.encode()) == text.encode()
