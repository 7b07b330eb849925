"""Real sessions on both stores, with real worker processes."""

from __future__ import annotations

from tests.sessions import store_url
from tests.support.moto_server import moto_server

__all__ = ["moto_server", "store_url"]
