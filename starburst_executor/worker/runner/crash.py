"""What `faulthandler` writes as a process dies, without the frames beneath the user's, which say nothing to the user."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["OPENING", "users_frames"]

# How its text begins.
OPENING = b"Fatal Python error: "
_FRAME = b'  File "'
_OURS = _FRAME + os.fsencode(Path(__file__).parent) + os.sep.encode()


def users_frames(text: bytes) -> bytes:
    """The text with each stack cut where the user's code was called. The most recent call comes first in there."""
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
