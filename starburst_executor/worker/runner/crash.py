"""Reports of `faulthandler` on a dying process, without the frames of this library, which are of no use to the user."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["OPENING", "users_frames"]

# The first words of a report.
OPENING = b"Fatal Python error: "
_FRAME = b'  File "'
_OURS = _FRAME + os.fsencode(Path(__file__).parent) + os.sep.encode()


def users_frames(text: bytes) -> bytes:
    """Return the text with each stack cut below the user's code. A report lists the most recent call first."""
    before, opening, report = text.rpartition(OPENING)
    if not opening:
        return text
    kept: list[bytes] = []
    is_beneath = False
    for line in report.splitlines(keepends=True):
        is_frame = line.startswith((_FRAME, b"  ...", b"  <"))
        is_beneath = is_frame and (is_beneath or line.startswith(_OURS))
        if not is_beneath:
            kept.append(line)
    return before + opening + b"".join(kept)
