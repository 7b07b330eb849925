"""Real sessions on both stores, with real worker processes."""

from __future__ import annotations

from tests.aws_fakes.server import aws
from tests.moto_server import moto_server
from tests.sessions import store_url

__all__ = ["aws", "moto_server", "store_url"]
