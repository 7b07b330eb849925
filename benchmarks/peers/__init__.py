"""Other libraries beside ours: an adapter each, measured in a process of its own.

    throughput.py ──Job──► ask ──► python -m benchmarks.peers ──► adapter.opened(job) ──► caller(function, items)
                  ◄─Answer─────────────────────────────────────── measure: more and more tasks, the last run counts

An adapter is a module with two names:

    DISTRIBUTION       what must be installed, as PyPI calls it; empty for the standard library
    opened(job)        a context manager: workers are up inside, gone after; it gives a `Seat`

Peers print, leave processes and register exit handlers; in a process group of their own that is nobody's trouble. What
is not installed is answered as absent. Nothing is ever guessed.
"""
