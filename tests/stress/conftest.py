"""Real sessions on both stores, with real worker processes."""

from __future__ import annotations

from tests.sessions import no_code_of_tests, store_url
from tests.support.moto_server import moto_server
from tests.support.s3_server import s3_server

__all__ = ["moto_server", "no_code_of_tests", "s3_server", "store_url"]
