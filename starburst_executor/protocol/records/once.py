"""The log of keys: which key belongs to which task, for `submit_once` and `map_once`. One entry is up to 10,000 tasks.

An entry is created once, under the next number, and never changes. It is the whole truth about its tasks: their ids, the status objects
that hold them, and their calls. So any client can create the status objects of an entry whose writer has died.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import msgpack

from starburst_executor.errors import RecordInvalid
from starburst_executor.protocol.keys import STATUSES_PER_EPOCH, StatusRef, is_status_id
from starburst_executor.protocol.options import MOST_LABEL
from starburst_executor.protocol.records.fields import ANY_BYTES, Fields, typed
from starburst_executor.protocol.seal import Sealer

__all__ = ["DIGEST_BYTES", "MOST_KEYS", "ONCE", "OnceEntry", "decode_once", "pack_lengths"]

DIGEST_BYTES = 16
MOST_KEYS = 10_000
# The id under which the manifest lists the log among the submitters. It is no client: it neither beats nor leaves.
ONCE = "once"
_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True)
class OnceEntry:
    """The keys of some tasks.

    Attributes:
        number: Its number in the log, from 0.
        first: The sequence of its first task; the others follow.
        first_object: The number of status objects of all earlier entries.
        sizes: The number of tasks in each of its status objects.
        keys: The digests of the keys, 16 bytes each.
        arguments: The digests of function and arguments, 16 bytes each.
        function: The digest of the stored function.
        function_name: Its module and qualified name.
        signature: Its signature as text; empty if it has none.
        texts: The keys and arguments as short texts for messages, compressed; empty if the keys are the arguments' own digests.
        lengths: The length of each call's record, 4 bytes each.
        records: The records of all calls, if they are small.
        calls_id: Otherwise, the object that holds them: `calls/<calls_id>`.
        start: Where they begin in it.
        name: Their name, by which they are checked (`protocol/pieces.py`).
        options: The options of the tasks, as `protocol/options.py` encodes them; empty and not stored for the defaults.
        labels: The labels of the tasks, msgpack, deflated; empty and not stored if none has one.
        ending: The end of the keys of its status objects: priority, limit and resources of the tasks; empty and not stored without any.
        seal: The seal of all other fields under the session's key.
    """

    number: int
    first: int
    first_object: int
    sizes: tuple[int, ...]
    keys: bytes
    arguments: bytes
    function: str
    function_name: str
    signature: str
    texts: bytes
    lengths: bytes
    records: bytes
    calls_id: str = ""
    start: int = 0
    name: bytes = b""
    options: bytes = b""
    labels: bytes = b""
    ending: str = ""
    seal: bytes = b""

    @property
    def n_tasks(self) -> int:
        return len(self.keys) // DIGEST_BYTES

    def key(self, position: int) -> bytes:
        """Return the digest of a key."""
        return self.keys[position * DIGEST_BYTES : (position + 1) * DIGEST_BYTES]

    def argument(self, position: int) -> bytes:
        """Return the digest of function and arguments of a task."""
        return self.arguments[position * DIGEST_BYTES : (position + 1) * DIGEST_BYTES]

    def refs(self, ordinal: int) -> Iterator[StatusRef]:
        """Yield its status objects, in order."""
        first = self.first
        for number, size in enumerate(self.sizes, self.first_object):
            yield StatusRef(ordinal, first, size, number // STATUSES_PER_EPOCH).ending_in(self.ending)
            first += size

    def stored(self) -> dict[str, object]:
        """Return the fields that are stored."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in fields.items() if value or name not in ("options", "labels", "ending")}

    def label_texts(self) -> tuple[str, ...]:
        """Return the labels of its tasks; empty if none has one. Raises: RecordInvalid."""
        if not self.labels:
            return ()
        try:
            body = zlib.decompressobj().decompress(self.labels, MOST_KEYS * (4 * MOST_LABEL + 5))
            labels = msgpack.unpackb(body, use_list=False)
        except (zlib.error, ValueError, msgpack.UnpackException) as error:
            raise RecordInvalid("labels of an entry that cannot be read") from error
        if type(labels) is not tuple or len(labels) != self.n_tasks or not all(type(label) is str for label in labels):
            raise RecordInvalid("labels of an entry that cannot be read")
        return labels

    def places(self) -> list[tuple[int, int]]:
        """Return start and length of each call among the records."""
        places, start = [], 0
        for i in range(0, len(self.lengths), _LENGTH_BYTES):
            length = int.from_bytes(self.lengths[i : i + _LENGTH_BYTES], "big")
            places.append((start, length))
            start += length
        return places

    def sealed(self, sealer: Sealer) -> OnceEntry:
        """Return the entry with its seal."""
        fields = [value for name, value in self.stored().items() if name != "seal"]
        packed: bytes = msgpack.packb(fields, unicode_errors=ANY_BYTES)
        return replace(self, seal=sealer.seal("once", str(self.number), packed))


def pack_lengths(records: list[bytes]) -> bytes:
    """Return the lengths of these records, as an entry stores them."""
    return b"".join(len(record).to_bytes(_LENGTH_BYTES, "big") for record in records)


def decode_once(body: bytes) -> OnceEntry:
    """Decode an entry; its seal is not checked. Raises: RecordInvalid, VersionMismatch."""
    what = "entry of the log of keys"
    fields = Fields(body, what)
    entry = OnceEntry(
        number=fields.take("number", int),
        first=fields.take("first", int),
        first_object=fields.take("first_object", int),
        sizes=tuple(typed(size, int, what) for size in fields.take("sizes", tuple)),
        keys=fields.take("keys", bytes),
        arguments=fields.take("arguments", bytes),
        function=fields.take("function", str),
        function_name=fields.take("function_name", str),
        signature=fields.take("signature", str),
        texts=fields.take("texts", bytes),
        lengths=fields.take("lengths", bytes),
        records=fields.take("records", bytes),
        calls_id=fields.take("calls_id", str),
        start=fields.take("start", int),
        name=fields.take("name", bytes),
        options=fields.optional("options", bytes) or b"",
        labels=fields.optional("labels", bytes) or b"",
        ending=fields.optional("ending", str) or "",
        seal=fields.take("seal", bytes),
    )
    n = entry.n_tasks
    is_whole = len(entry.keys) == len(entry.arguments) == n * DIGEST_BYTES and len(entry.lengths) == n * _LENGTH_BYTES
    if not is_whole or sum(entry.sizes) != n or not all(entry.sizes):
        raise RecordInvalid(f"an inconsistent {what}: tasks={n}")
    if entry.calls_id and not is_status_id(entry.calls_id):
        raise RecordInvalid(f"an inconsistent {what}: calls={entry.calls_id!r}")
    return entry
