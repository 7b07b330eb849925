"""How one call of `Study.run` goes on with a study, and at which pace. Values."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Pace", "RunOptions"]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a study is to go on, as `Study.run` takes it; applied once, by the process that drives.

    Attributes:
        is_changed: Whether the stages differ from the recorded ones, and that was accepted or needs no acceptance.
    """

    unfinished: bool = True
    failed: bool = False
    restart: tuple[str, ...] = ()
    continue_aborted: bool = False
    is_changed: bool = False
    wait: bool = True

    @property
    def changes_anything(self) -> bool:
        return bool(self.restart) or self.is_changed or self.continue_aborted


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between two beats, and between two looks of those who watch."""

    beat_s: float
    look_s: float
