"""Other libraries beside ours: an adapter each, measured in a process of its own.

    throughput.py ──Job──► ask ──► python -m benchmarks.peers ──► adapter.opened(job) ──► caller(function, items)
                  ◄─Answer─────────────────────────────────────── measure: more and more tasks, the last run counts

An adapter is a module with two names:

    DISTRIBUTION       what must be installed, as PyPI calls it; empty for the standard library
    opened(job)        a context manager that starts workers, yields a `Seat`, and ends them

Peers print, leave processes and register exit handlers; in their own process group that affects no
other measurement. A library that is not installed is reported as absent.
"""
