"""The inside of an executor, for tests that must see more than its public interface shows: the only module that reaches in."""

from __future__ import annotations

from starburst_executor.client.engine import Engine
from starburst_executor.client.executor import StarburstExecutor
from starburst_executor.client.parts import Parts
from starburst_executor.config import SessionKey
from starburst_executor.session.store import SessionStore
from starburst_executor.store.patient import PatientStore

__all__ = ["engine_of", "flush", "key_of", "parts_of", "session_of", "store_of"]


def engine_of(executor: StarburstExecutor) -> Engine:
    """Return its engine."""
    return executor._engine


def parts_of(executor: StarburstExecutor) -> Parts:
    """Return the parts of its engine."""
    return engine_of(executor).parts


def session_of(executor: StarburstExecutor) -> SessionStore:
    """Return its session, with the store, the sealer and the manifest."""
    return engine_of(executor).session


def store_of(executor: StarburstExecutor) -> PatientStore:
    """Return its store, which counts the requests of this client."""
    return engine_of(executor).opened.store


def key_of(executor: StarburstExecutor) -> SessionKey:
    """Return the key of its session."""
    return engine_of(executor).opened.key


def flush(executor: StarburstExecutor) -> None:
    """Wait until the store has acknowledged every submit so far."""
    engine_of(executor).flush()
