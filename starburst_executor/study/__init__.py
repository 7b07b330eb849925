"""Studies: campaigns of stages over a detached session, which resume where they stopped (docs/design/0013-studies.md).

study.py ──► driver.py ──► fleet.py ──► DetachedExecutor       trials are tasks
    │           ├──► transitions.py, selection.py             decisions: pure
    │           └──► objects.py, wheel.py ──► ObjectStore      the record, the tables, who drives
    └──► stage.py, plan.py                                    what the user wrote
running.py ──► trial.py                                       on the worker: one trial
"""
