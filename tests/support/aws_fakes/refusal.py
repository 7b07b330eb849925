"""What the fakes raise to answer an error, or nothing at all."""

from __future__ import annotations

import threading
import time
from typing import Any


class Refusal(Exception):
    """An answer of AWS that is an error."""

    def __init__(self, code: str, message: str, status: int = 400, **more: Any) -> None:
        super().__init__(code, message)
        self.code = code
        self.status = status
        self.body = {"__type": code, "message": message, **more}


class Page(Refusal):
    """A gateway in front of AWS answers for it, in HTML."""

    def __init__(self, status: int = 503) -> None:
        super().__init__("", "", status)


class LostAnswer(Exception):
    """The request is carried out, and its answer is lost: the connection ends."""


class Bucket:
    """A token bucket, as AWS throttles: a burst, and a rate per second."""

    def __init__(self, burst: int, per_s: float) -> None:
        self._burst, self._per_s = burst, per_s
        self._tokens, self._at = float(burst), time.monotonic()
        self._lock = threading.Lock()
        self.n_refused = 0

    def take(self) -> None:
        with self._lock:
            now = time.monotonic()
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_s)
            self._at = now
            if self._tokens < 1:
                self.n_refused += 1
                raise Refusal("ThrottlingException", "Rate exceeded")
            self._tokens -= 1
