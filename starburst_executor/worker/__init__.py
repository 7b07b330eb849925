"""The worker: one agent that claims, runs and commits tasks, and the crash-isolated runners that run them.

    agent (threads, store, key) ──fork, first of all──► nursery (one thread, no user code) ──fork per slot──► runner
      runner.py  tokens.py  capture.py                    nursery.py                                            child.py

Between agent and runner: frames (`wire.py`), tokens that say "start" and can be taken back (`tokens.py`), and the
runner's standard output in files that the agent reads (`capture.py`). See docs/design/0003-runners.md.
"""
