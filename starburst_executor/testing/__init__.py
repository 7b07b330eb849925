"""The tools that test this library, for users' tests too: stores without a network, stores that fail, a clock.

    store = MemoryStore()                                   the reference store
    store = FaultyStore(store, in_turn([Fault.ANSWER_LOST]))    the same with lost answers
    store = SlowStore(store, SystemClock())                 the same with the latency of S3
    executor = InlineExecutor()                             runs each task at once, in this process, with real pickling
    clock = FakeClock()                                     time that a test advances

Importing this package also makes `store="memory://name"` work within one process.
"""

from starburst_executor.testing.clock import FakeClock
from starburst_executor.testing.faulty import Asked, Fault, FaultyStore, Plan, by_chance, in_turn
from starburst_executor.testing.inline import InlineExecutor
from starburst_executor.testing.memory import MemoryStore
from starburst_executor.testing.slow import SlowStore

__all__ = [
    "Asked",
    "FakeClock",
    "Fault",
    "FaultyStore",
    "InlineExecutor",
    "MemoryStore",
    "Plan",
    "SlowStore",
    "by_chance",
    "in_turn",
]
