"""An engine whose threads run, with a store in memory and the test in the place of the workers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from starburst_executor import config
from starburst_executor.client.engine import Engine
from starburst_executor.client.opening import Opened
from starburst_executor.client.sending import Sending
from starburst_executor.clock import SystemClock
from starburst_executor.config import SessionKey, Timings
from starburst_executor.session.store import SessionStore
from starburst_executor.store.patient import PatientStore
from tests.support.session_rig import KEY, SESSION, Rig

PATIENCE_S = 20.0


class Client:
    """An engine whose threads run; `work` does what workers would."""

    def __init__(self) -> None:
        clock = SystemClock()
        self.rig = Rig(clock=clock, timings=replace(Timings.embedded(), beat_s=0.2))
        store = PatientStore(self.rig.faulty, clock, patience_s=0.2)
        session = SessionStore(store, SESSION, self.rig.sealer, clock)
        session.manifest.refresh()
        settings = config.resolve(detached=False, store="sqlite:///unused", workers=4)
        opened = Opened(session, store, SessionKey(KEY))
        self.engine = Engine(opened, None, clock, detached=False, ordinal=0, settings=settings)

    @property
    def sending(self) -> Sending:
        return self.engine.parts.sending

    def submit(self, function: Any = pow, *args: Any) -> Any:
        return self.sending.submit(function, args or (2, 3), {})

    def work(self) -> None:
        """Complete every task that is pending."""
        for group in self.rig.another().statuses.all():
            if group.size_class.has_pending:
                self.rig.end(group.key, claim_id=f"w.{group.etag}")

    def end(self) -> None:
        self.engine.ending.begin()
        self.engine.ending.wait_done()
        self.engine.ending.end_session()

    def close(self) -> None:
        """End it, whatever the test has left."""
        self.rig.plan = lambda _: None
        for future in self.engine.parts.futures.unfinished():
            future.mark_cancelled()
        self.engine.ending.begin()
        self.engine.ending.end_session()
