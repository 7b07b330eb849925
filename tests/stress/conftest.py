"""Real sessions on both stores, with real worker processes."""

from __future__ import annotations

from tests.sessions import store_url
from tests.support.moto_server import moto_server
from tests.support.s3_server import s3_server

__all__ = ["moto_server", "s3_server", "store_url"]
