"""The functions that a worker keeps: those wanted last, within a bound."""

from __future__ import annotations

from starburst_executor.protocol import calls
from starburst_executor.worker import code_root
from starburst_executor.worker.code import Code
from starburst_executor.worker.functions import Functions
from starburst_executor.worker.recent import Recent
from tests.support.session_rig import Rig

KB = 1024


def functions_of(rig: Rig, keep_bytes: int) -> Functions:
    return Functions(rig.session, Code(rig.session, code_root.new_name()), keep_bytes=keep_bytes)


def store(rig: Rig, n_bytes: int) -> str:
    body = calls.dump_function(bytes(n_bytes).count)
    digest = calls.digest(body)
    rig.objects.create(rig.session.keys.function(digest), rig.session.sealer.sealed("function", digest, body))
    return digest


def test_a_function_that_is_kept_is_read_once() -> None:
    rig = Rig()
    functions, digest = functions_of(rig, 100 * KB), store(rig, 10)
    with rig.requests() as requests:
        for _ in range(5):
            assert functions.get(digest).body
    assert requests == {"get": 1}


def test_functions_without_end_are_kept_within_a_bound() -> None:
    rig = Rig()
    functions = functions_of(rig, 100 * KB)
    digests = [store(rig, 10 * KB + i) for i in range(50)]
    often = digests[0]
    with rig.requests() as requests:
        for digest in digests:
            functions.get(digest)
            functions.get(often)
            assert functions._bodies.n_bytes <= 100 * KB
        assert functions.get(digests[1]).body
    assert requests == {"get": 51}  # one for each, and one more for that which was forgotten


def test_the_newest_stays_however_big_and_a_name_counts_once() -> None:
    recent: Recent[str, int] = Recent(10)
    assert recent.add("a", 1, 4) == []
    assert recent.add("a", 2, 5) == []
    assert (recent.n_bytes, len(recent)) == (5, 1)
    assert recent.add("b", 3, 5) == []
    assert recent.get("a") == 2
    assert recent.add("c", 4, 5) == ["b"]
    assert recent.add("d", 5, 99) == ["a", "c"]
    assert "d" in recent
    assert recent.get("a") is None
    assert recent.n_bytes == 99
