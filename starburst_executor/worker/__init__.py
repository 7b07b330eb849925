"""The worker: one agent that claims, runs and commits tasks, and the crash-isolated runners that run them.

    agent (threads, store, key) ──fork, first step───► nursery (one thread, no user code) ──fork per slot──► runner
      runner.py  tokens.py  capture.py                    nursery.py                                            child.py

Between agent and runner there are frames (`wire.py`), tokens that permit the start of a job and can be taken back
(`tokens.py`), and files with the runner's output that the agent reads (`capture.py`). See docs/design/0003-runners.md.
"""
