"""Every decoder of a stored record, fuzzed with coverage as the guide: whatever the bytes, only a refusal comes out.

Each target runs in a process of its own for `FUZZ_SECONDS` (10 unless set), within five seconds an input and a gigabyte
in all. The bytes are changed at random, and one value inside of a valid record at a time, so that checks deep inside
are reached too. An input that breaks a decoder is printed, in Python's spelling.
"""

from __future__ import annotations

import importlib.util
import io
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest

from tests.support.moto_server import ROOT

pytestmark = [
    pytest.mark.stress,
    pytest.mark.skipif(
        importlib.util.find_spec("atheris") is None,
        reason="needs atheris, which is for Linux on x86-64: pip install atheris",
    ),
]
# The names only: what they decode is imported in the fuzzing process, where it is instrumented on the way.
TARGETS = [
    "status",
    "manifest",
    "beat",
    "client-beat",
    "bell",
    "outcome",
    "bootstrap",
    "bootstrap-frame",
    "output",
    "sealed",
]
PLANTED = "planted"
_MAX_BYTES = 16_384
_ODD: list[Any] = [
    None, True, 0, 1, 5, -1, 2**63, -(2**63), 0.5, float("nan"), float("inf"), "", "a", "/", "open", b"", b"\0" * 40,
    [], {}, [[]], [0], ["", 0, 0], {"": 0}, msgpack.ExtType(5, b""),
    msgpack.ExtType(127, b"\xff" * 9), msgpack.Timestamp(0),
]  # fmt: skip

Decoder = Callable[[bytes], object]


def fuzz(target: str, folder: Path, seconds: float) -> subprocess.CompletedProcess[str]:
    """Fuzz one target; the exit code is 0 if nothing but refusals came out."""
    return subprocess.run(
        [sys.executable, "-m", "tests.stress.test_fuzz", target, str(folder), str(int(seconds))],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
    )  # fmt: skip


@pytest.mark.timeout(0)
@pytest.mark.parametrize("target", TARGETS)
def test_only_a_refusal_comes_out(target: str, tmp_path: Path) -> None:
    done = fuzz(target, tmp_path, float(os.environ.get("FUZZ_SECONDS", "10")))
    assert done.returncode == 0, done.stdout[-8000:]
    [summary] = [line for line in done.stdout.splitlines() if line.startswith("Done ")]
    print(f"{target}: {summary}")


@pytest.mark.timeout(300)
def test_a_planted_bug_is_found(tmp_path: Path) -> None:
    """A check that is missing three levels inside of a record, which no valid record and few random bytes reach."""
    done = fuzz(PLANTED, tmp_path, 120)
    assert done.returncode != 0
    assert "ZeroDivisionError" in done.stdout


# --- in the fuzzing process -------------------------------------------------------------------------------------------


def main(target: str, folder: str, seconds: str) -> None:
    import atheris

    with atheris.instrument_imports(include=["starburst_executor"]):
        decoders = _decoders()
        from starburst_executor.errors import RecordInvalid, VersionMismatch
    decode, seeds = decoders[target]
    if target == PLANTED:
        decode = atheris.instrument_func(decode)
    for number, seed in enumerate(seeds):
        decode(seed)  # a seed that is refused teaches nothing
        Path(folder, f"seed-{number}").write_bytes(seed)

    def try_one(body: bytes) -> None:
        try:
            decode(body)
        except (RecordInvalid, VersionMismatch):
            pass
        except BaseException:
            print(f"\nthis breaks the decoder of {target}: {body!r}", flush=True)
            raise

    def mutate(body: bytes, max_size: int, seed: int) -> bytes:
        chance = random.Random(seed)
        changed = _with_one_value_changed(body, chance) if chance.random() < 0.5 else None
        if changed is None or len(changed) > max_size:
            return bytes(atheris.Mutate(body, max_size))
        return changed

    arguments = [f"-max_total_time={seconds}", f"-max_len={_MAX_BYTES}", "-timeout=5", "-rss_limit_mb=1024"]
    arguments += [f"-artifact_prefix={folder}/", "-print_final_stats=0", folder]
    atheris.Setup([sys.argv[0], *arguments], try_one, custom_mutator=mutate)
    atheris.Fuzz()


def _with_one_value_changed(body: bytes, chance: random.Random) -> bytes | None:
    """The same record with one value, anywhere inside, replaced, doubled or left out; None if these bytes are none."""
    head = body[:1] if body[:1] in (b"E", b"R") else b""
    try:
        record = msgpack.unpackb(body[len(head) :])
        holder, place = record, None
        while isinstance(holder, list | dict) and holder:
            place = chance.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
            if not isinstance(holder[place], list | dict) or not holder[place] or chance.random() < 0.2:
                break
            holder = holder[place]
        if place is None:
            return None
        deed = chance.randrange(6)
        if deed == 0:
            del holder[place]
        elif deed == 1 and isinstance(holder, list):
            holder.insert(place, holder[place])
        else:
            holder[place] = chance.choice(_ODD)
        return head + msgpack.packb(record)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException):
        return None


def _decoders() -> dict[str, tuple[Decoder, list[bytes]]]:
    """What decodes each target, with valid bytes to begin from."""
    from starburst_executor.clock import SystemClock
    from starburst_executor.config import Timings
    from starburst_executor.launch.bootstrap import Bootstrap, read_bootstrap, write_bootstrap
    from starburst_executor.protocol import outcomes, records
    from starburst_executor.protocol.seal import Sealer
    from starburst_executor.protocol.spans import encoding, transitions
    from starburst_executor.protocol.spans.record import CallBlock, Located, OutcomeBlock, Span, Status
    from starburst_executor.session.store import SessionStore
    from starburst_executor.testing.memory import MemoryStore

    manifest = records.Manifest(
        "20240101-000000-abcd", records.DETACHED, 1.7e9, "3.11", "0.1", b"\x00\xff", 50, Timings.embedded(),
        task_timeout=1.5, initializer="d" * 32, deadline_at=1.8e9,
        submitters=(records.Submitter("a", 2, (0, 1), ((1, "hold"),)),),
        launches=(records.Launch("l", "local", 4, "00ff", 1.7e9, True),),
    )  # fmt: skip
    beat = records.WorkerBeat(
        "w", 7, records.WorkerState.LEAVING, 4, 1.0, 2.0, {"w.1": "key"}, (("0-1", 1.5),), 9, 0.5, {"get": 3}, "host:1"
    )
    bell = records.encode(records.Bell(("one", "two"), 12), "n")
    calls = (CallBlock(0, 1, 0, b"call"), CallBlock(1, 1, 0, Located("", 0, 9)))
    pending = Status(0, 7, ("f" * 32,), (Span(2),), calls)
    claimed, _ = transitions.claim(pending, "w.0", at_most=2, now=1.0, max_losses=3)
    ended, _ = transitions.commit(
        claimed,
        "w.0",
        [
            OutcomeBlock(0, 1, 1, 1, "w.0", b"out", seconds=b"\0" * 4, logs=((0, 1, 0, 3),)),
            OutcomeBlock(1, 1, 1, 1, "w.0", Located("w.0-1", 3, 9), failed=(0,), failures=((0, 1),)),
        ],
        3.0,
    )
    pipe = io.BytesIO()
    write_bootstrap(pipe, Bootstrap("00ff", ("/a", "/b\udcff"), "w", True, False, "/tmp/words", b"key"))
    bootstrap = pipe.getvalue()

    sealer, store = Sealer(b"k" * 32, manifest.session_id), MemoryStore()
    session = SessionStore(store, manifest.session_id, sealer, SystemClock())

    def read_output(body: bytes) -> object:
        store.put(session.keys.logs("0-7", "w.0"), body)
        return session.payloads.output("0-7", Located("w.0", 0, len(body)))

    def planted(body: bytes) -> object:
        found = records.decode_beat(body)
        return 1 / (len(found.running[0][0]) - 1) if found.running else None

    return {
        "status": (encoding.decode, [encoding.encode(one, "n") for one in (pending, claimed, ended)]),
        "manifest": (records.decode_manifest, [records.encode(manifest, "n")]),
        "beat": (records.decode_beat, [records.encode(beat, "n")]),
        "client-beat": (records.decode_client_beat, [records.encode(records.ClientBeat("c", 3, 1.0, True), "n")]),
        "bell": (records.decode_bell, [bell]),
        "outcome": (
            outcomes.describe_outcome,
            [outcomes.dump_error(ValueError("no")), outcomes.dump_reason(ValueError("no")), outcomes.dump_value(1)],
        ),
        "bootstrap": (
            lambda body: read_bootstrap(io.BytesIO(len(body).to_bytes(4, "big") + body)),
            [bootstrap[4:]],
        ),
        "bootstrap-frame": (lambda body: read_bootstrap(io.BytesIO(body)), [bootstrap]),
        "output": (read_output, [msgpack.packb((b"out", b"err"))]),
        "sealed": (
            lambda body: sealer.open_sealed("call", "0-7", body),
            [sealer.sealed("call", "0-7", b"call")],
        ),
        PLANTED: (planted, [records.encode(beat, "n")]),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
