"""Draws the latency of an answer from a seed: lognormal around the median, with a rare long one.

Medians are rounded from published measurements within one region, spreads are theirs (95th percentile over median):

    GET, HEAD            30 ms    2.57 ×      "GET 4 KiB": p50 26.8, p95 69.0, p99 113.4 ms (December 2025)
    PUT, POST, LIST,     60 ms    1.29 ×      conditional PUT, 2.68 million operations of YCSB on m5.4xlarge:
    DELETE                                    p50 60.8, p95 78.5, p99 103 ms (June 2025)

Source: the S3 measurements collected in https://github.com/cdouglas/endive, `analysis/`.
"""

from __future__ import annotations

import math
import random

__all__ = ["Latency"]

_P95 = 1.645  # standard deviations
_READ_S, _READ_SIGMA = 0.030, math.log(69.0 / 26.8) / _P95
_WRITE_S, _WRITE_SIGMA = 0.060, math.log(78.5 / 60.8) / _P95
_TAIL, _TAIL_S = 0.01, 0.150


class Latency:
    """Draws latencies. Two with the same seed draw the same.

    Args:
        like: `"aws"`, or `"none"` for no latency at all.
    """

    def __init__(self, like: str, seed: int = 1) -> None:
        self._is_slow = like == "aws"
        self._random = random.Random(seed)

    def draw_s(self, kind: str) -> float:
        """Return the seconds that the next request of this kind (`Request.kind`) takes."""
        if not self._is_slow:
            return 0.0
        median_s, sigma = (_READ_S, _READ_SIGMA) if kind in ("get", "head") else (_WRITE_S, _WRITE_SIGMA)
        drawn_s = median_s * math.exp(self._random.gauss(0.0, sigma))
        return max(drawn_s, _TAIL_S) if self._random.random() < _TAIL else drawn_s
