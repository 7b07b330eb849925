"""Submits what a session does not have yet: `submit_once` and `map_once`. Each task has a key, which the session remembers.

    keys ─► log of keys ─► known ──► its status object ─► there ──────────────────────────────► future
                 │                                   └──► missing: its client died ─► create ─┘
                 └───────► unknown ─► function, calls ─► an entry in the log ─► status objects ─┘

Everything is acknowledged when a call returns. A client may die at any line:

    before the entry      nothing is submitted; some objects that no other names stay until the session is deleted
    after the entry       the next client that has one of these keys creates the missing status objects, under the same ids and with the
                          calls that the entry names

Two clients at once write different entries, so one of them reads the other's before it tries again; and both may create the same status
object, of which one stays.

Source: docs/design/0012-names-and-once.md
"""

from __future__ import annotations

import threading
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgpack

from starburst_executor.client.announcer import Announcer
from starburst_executor.client.cached import cached_in
from starburst_executor.client.code_words import code_words
from starburst_executor.client.fitting import signature_text
from starburst_executor.client.functions import Prepared, without_partials
from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.once_calls import Gathered, gather, sizes_of
from starburst_executor.client.once_statuses import status_of
from starburst_executor.client.once_wanted import Call, Wanted, call_text, placing
from starburst_executor.client.pieces import Pieces
from starburst_executor.client.replacement import Replacement
from starburst_executor.client.task_options import NO_OPTIONS, CallOptions
from starburst_executor.client.upstream import UpstreamOf, locate
from starburst_executor.errors import (
    ObjectNotFound,
    PreconditionFailed,
    RecordInvalid,
    StoreUnavailable,
    VersionMismatch,
)
from starburst_executor.protocol.content import digest_of, function_name, short_text
from starburst_executor.protocol.keys import StatusRef
from starburst_executor.protocol.options import label_of
from starburst_executor.protocol.pieces import Result
from starburst_executor.protocol.records import OnceEntry
from starburst_executor.protocol.records.once import pack_lengths
from starburst_executor.protocol.spans import encoding
from starburst_executor.protocol.spans.record import SizeClass, State
from starburst_executor.session.epochs import open_epoch
from starburst_executor.session.fan_out import fan_out
from starburst_executor.session.once import OnceLog, open_once
from starburst_executor.session.statuses import ListedStatus, Versioned

if TYPE_CHECKING:
    from starburst_executor.client.engine import Engine

__all__ = ["Once"]

# Up to this number of status objects are read one by one instead of being listed.
_FEW = 4


class Once:
    """The keys of one session, in one client. Thread-safe: one call after another.

    Attributes:
        n_submitted: The number of tasks that this client has submitted here for keys that the session did not have.
        n_retried: The number of tasks that it has had run again: failed ones, and others' that failed because of them, in place; for cancelled
            ones, new tasks.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._session = engine.session
        self._log = OnceLog(engine.session)
        self._pieces = Pieces(engine.session.sealer)
        self._announcer = Announcer(engine.session)
        self._upstream = UpstreamOf(engine.session.session_id)
        self._stored: set[str] = set()  # functions
        self.n_submitted = self.n_retried = 0
        self._turn = threading.Lock()  # held during a call

    def submit(
        self,
        function: Callable[..., Any],
        calls: Iterable[Call],
        keys: Sequence[object] | None = None,
        *,
        retry_failed: bool = False,
        options: CallOptions = NO_OPTIONS,
        labels: Sequence[str] | None = None,
        key_of: Callable[[bytes], bytes] | None = None,
    ) -> list[StarburstFuture[Any]]:
        """Return a future for each call, in order; submit those whose keys the session does not know.

        Args:
            keys: The key of each call; None if a call's content is its key.
            retry_failed: Run failed and cancelled tasks among these again, with this function.
            options: The options of the tasks that are submitted; known ones keep theirs.
            labels: The label of each call; made by `options` if not given.
            key_of: Without `keys`: returns the digest of a call's key, of that of its content.

        Raises: ValueError: a key is known with other arguments, or another function; nothing was submitted. ConfigError: the same, with
            `retry_failed` and a function that does not accept the arguments of a failed task. Any exception of pickling; the errors of
            `submit`.
        Store: 1 GET; the first time 1 LIST per 1,000 entries, 1 GET an entry. 1 LIST for each epoch, or 1 GET for each of up to 4 status
        objects, that hold known tasks. For unknown keys: 1 create for each 10,000 and for each status object, 1 for each new function, 1
        for calls that are not small; 1 ring.
        """
        with self._turn:
            engine, session = self._engine, self._session
            engine.parts.state.check_open(session.manifest.current)
            given = list(calls)
            wanted = self._wanted(function, given, keys, key_of)
            wanted.options = options
            if labels is not None or options.options.label is not None:
                wanted.label_texts = labels or [label_of(options.options, *call) for call in given]
            if not wanted.calls:
                return []
            ordinal = open_once(session)
            self._log.read()
            known = self._known(wanted, wanted.firsts)
            futures: dict[int, StarburstFuture[Any]] = {}
            listing, fresh = self._find(ordinal, known.values(), futures)
            if retry_failed:
                cancelled = self._cancelled(listing, set(known.values()))
                n_known = len(known)
                known = {key: sequence for key, sequence in known.items() if sequence not in cancelled}
                n_again = n_known - len(known)
                replacement = self._replacement(wanted, known) if known else None
                if replacement is not None:
                    # Before anything is submitted.
                    engine.tasks.check_calls(replacement, {(ordinal, sequence) for sequence in known.values()})
            else:
                cancelled, n_again, replacement = set(), 0, None
            fresh += self._submit_rest(ordinal, wanted, known, cancelled, futures)
            if fresh:
                with suppress(StoreUnavailable):  # a hint
                    session.bell.ring([listed.key for listed in fresh], sum(listed.ref.n_tasks for listed in fresh))
            engine.start()
            engine.parts.wake_keeper.set()
            if retry_failed:
                replacement = replacement or self._replacement(wanted, known)
                ids = {(ordinal, sequence) for sequence in known.values()}
                retried = engine.tasks.retry_failed(replacement, ids)
                futures.update((future.index, future) for future in retried)
                self.n_submitted -= n_again
                self.n_retried += n_again + len(retried)
            return [futures[known[key]] for key in wanted.keys]

    def function(self) -> str | None:
        """Return the name and signature of the function that was submitted last; None if none was. Store: as `submit`, to read the log."""
        with self._turn:
            self._log.read()
            entry = self._log.last()
        return None if entry is None else f"{entry.function_name}{entry.signature}"

    def find(self, keys: Sequence[object]) -> list[StarburstFuture[Any] | None]:
        """Return the future of each key's task, None for a key that has none. Submits nothing, and reads a session that is over.

        Store: 1 GET; the first time 1 LIST per 1,000 entries, 1 GET an entry. 1 LIST for each epoch that holds these tasks.
        """
        with self._turn:
            self._log.read()
            digests = [digest_of(key) for key in keys]
            known = self._log.find(dict.fromkeys(digests))
            if not known:
                return [None] * len(digests)
            ordinal = open_once(self._session)
            placed = self._placed(ordinal, known.values())
            futures: dict[int, StarburstFuture[Any]] = {}
            # A task whose status object is missing was never seen by a worker: its client died before it created that.
            for listed in self._listed(ordinal, list(placed)):
                self._watch(listed, placed[listed.ref], futures)
            self._engine.start()
            return [futures.get(known[digest]) if digest in known else None for digest in digests]

    # --- what is wanted -----------------------------------------------------------------------------------------------

    def _wanted(
        self,
        function: Callable[..., Any],
        given: Iterable[Call],
        keys: Sequence[object] | None,
        key_of: Callable[[bytes], bytes] | None,
    ) -> Wanted:
        decorated = cached_in(function)  # whose text, and cache, do not count
        function, first, named = without_partials(function if decorated is None else decorated.function, (), {})
        calls = [self._after_others(first + call.args, {**named, **call.kwargs}) for call in given]
        prepared = self._engine.parts.sending.prepare_now(function)
        if prepared.error is not None:
            raise prepared.error
        wanted = Wanted(function, prepared, calls, keys)
        kind = _digest_of_function(function, has_keys=keys is not None)
        for i, call in enumerate(calls):
            content = digest_of(kind, call.args, call.kwargs)
            key = digest_of(keys[i]) if keys is not None else content if key_of is None else key_of(content)
            before = wanted.firsts.setdefault(key, i)
            wanted.keys.append(key)
            wanted.arguments.append(content)
            if wanted.arguments[before] != content:
                raise ValueError(
                    f"the key {short_text(keys[i] if keys is not None else key)} is given twice, with {call_text(calls[before])} and with "
                    f"{call_text(call)}: a key names one call"
                )
        return wanted

    def _after_others(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """Return a call with refs in the place of futures of this session, whose tasks are stored."""
        args, kwargs, after = self._upstream.taken_from(args, kwargs)
        if any(future.ordinal == self._engine.parts.sending.ordinal for future in after):
            self._engine.flush()
        return Call(args, kwargs)

    def _place_of(self, result: Result) -> Result:
        """Return a result with the key of the status object of its task. Store: nothing for a task of the log; otherwise as `locate`."""
        ordinal = open_once(self._session)
        if result.ordinal == ordinal:
            ref: StatusRef | None = next(iter(self._placed(ordinal, [result.sequence])))
        else:
            ref = locate(self._session, result.ordinal, result.sequence)
        key = "" if ref is None else self._session.keys.status(ref)
        return result._replace(place=key.removeprefix(self._session.keys.statuses))

    def _known(self, wanted: Wanted, keys: Iterable[bytes]) -> dict[bytes, int]:
        """Return the sequences of the known keys among these. Raises: ValueError if one of them names another call."""
        known = self._log.find(dict.fromkeys(keys))
        for key, sequence in known.items():
            entry = self._log.entry_of(sequence)
            position = sequence - entry.first
            if entry.argument(position) != wanted.arguments[wanted.firsts[key]]:
                raise ValueError(self._differs(wanted, key, entry, position))
        return known

    def _differs(self, wanted: Wanted, key: bytes, entry: OnceEntry, position: int) -> str:
        i, name = wanted.firsts[key], function_name(wanted.function)
        shown = short_text(wanted.given[i]) if wanted.given is not None else key.hex()
        now = call_text(wanted.calls[i])
        known = msgpack.unpackb(zlib.decompress(entry.texts), unicode_errors="surrogatepass") if entry.texts else None
        before = known[position][1] if known else "(…)"
        which = f"{entry.function_name}{before}, and now {name}{now} was given"
        if entry.function_name == name and before == now:
            which += ": they differ in a part that is not shown"
        return (
            f"the key {shown} names another call: the session has {which}; a key names one call: give another key, or use another session: "
            f"session={self._session.session_id}"
        )

    # --- tasks that are there -----------------------------------------------------------------------------------------

    def _find(
        self, ordinal: int, sequences: Iterable[int], futures: dict[int, StarburstFuture[Any]]
    ) -> tuple[list[ListedStatus], list[ListedStatus]]:
        """Add the futures of known tasks; return their status objects, and those that were missing and created now."""
        placed = {}
        for ref, positions in self._placed(ordinal, sequences).items():
            held = [self._engine.tasks.get(ordinal, ref.first + position) for position in positions]
            # A task whose future this client has is there.
            if all(future is not None for future in held):
                futures.update((ref.first + i, f) for i, f in zip(positions, held, strict=True) if f is not None)
            placed[ref] = positions
        unsure = [ref for ref in placed if not all(ref.first + i in futures for i in placed[ref])]
        listing = {listed.ref: listed for listed in self._listed(ordinal, unsure)}
        missing = [ref for ref in unsure if ref not in listing]
        created: list[ListedStatus] = []
        by_entry: dict[int, list[StatusRef]] = {}
        for ref in missing:
            by_entry.setdefault(self._log.entry_of(ref.first).number, []).append(ref)
        for refs in by_entry.values():
            entry = self._log.entry_of(refs[0].first)
            created += self._create(entry, refs, self._log.calls_of(entry))
        listing.update({listed.ref: listed for listed in created})
        for ref in unsure:
            self._watch(listing[ref], placed[ref], futures)
        certain = [
            ListedStatus(self._session.keys.status(ref), ref, SizeClass.ALL_ENDED, "", 0.0)
            for ref in placed
            if ref not in listing
        ]
        return [*listing.values(), *certain], created

    def _watch(self, listed: ListedStatus, positions: Iterable[int], futures: dict[int, StarburstFuture[Any]]) -> None:
        found = self._engine.tasks.watch(listed, positions)
        futures.update((sequence, future) for (_, sequence), future in found.items())

    def _placed(self, ordinal: int, sequences: Iterable[int]) -> dict[StatusRef, list[int]]:
        """Return the positions of these tasks by status object."""
        placed: dict[StatusRef, list[int]] = {}
        ref: StatusRef | None = None
        for sequence in sorted(set(sequences)):
            if ref is None or sequence >= ref.first + ref.n_tasks:
                refs = list(self._log.entry_of(sequence).refs(ordinal))
                ref = refs[bisect_right([known.first for known in refs], sequence) - 1]
            placed.setdefault(ref, []).append(sequence - ref.first)
        return placed

    def _listed(self, ordinal: int, refs: Sequence[StatusRef]) -> list[ListedStatus]:
        """Return those of these status objects that exist."""
        statuses = self._session.statuses
        if len(refs) > _FEW:
            wanted = set(refs)
            epochs = sorted({(ordinal, ref.epoch) for ref in refs})
            listings = fan_out(self._session.store, lambda epoch: statuses.of_epochs([epoch]), epochs)
            return [listed for listing in listings for listed in listing if listed.ref in wanted]
        return [listed for listed in fan_out(self._session.store, self._read, refs) if listed is not None]

    def _read(self, ref: StatusRef) -> ListedStatus | None:
        key = self._session.keys.status(ref)
        try:
            stored = self._session.statuses.read(key)
        except ObjectNotFound:
            return None
        return ListedStatus(key, ref, encoding.size_class(stored.status), stored.etag, 0.0)

    def _cancelled(self, listing: Iterable[ListedStatus], sequences: set[int]) -> set[int]:
        """Return which of these tasks were cancelled: a state that is final. Store: 1 GET for each object that may have any."""
        some = (SizeClass.SOME_PENDING, SizeClass.SOME_CLAIMED, SizeClass.ALL_ENDED)
        unsure = [listed for listed in listing if listed.size_class in some]
        cancelled = set()
        for stored in fan_out(self._session.store, self._readable, unsure):
            if stored is None:
                continue
            for start, span in stored.status.placed():
                if span.state == State.CANCELLED:
                    first = stored.status.first + start
                    cancelled.update(sequences.intersection(range(first, first + span.n)))
        return cancelled

    def _readable(self, listed: ListedStatus) -> Versioned | None:
        with suppress(ObjectNotFound, RecordInvalid, VersionMismatch):  # its futures get the error
            return self._session.statuses.read(listed.key)
        return None

    def _replacement(self, wanted: Wanted, known: Mapping[bytes, int]) -> Replacement | None:
        """Return the function as it is now, which may have been mended; None if it is the one that failed."""
        if {self._log.entry_of(sequence).function for sequence in known.values()} == {wanted.prepared.digest}:
            return None
        return Replacement(self._session, wanted.prepared, wanted.function)

    # --- tasks that are not -------------------------------------------------------------------------------------------

    def _submit_rest(
        self,
        ordinal: int,
        wanted: Wanted,
        known: dict[bytes, int],
        cancelled: set[int],
        futures: dict[int, StarburstFuture[Any]],
    ) -> list[ListedStatus]:
        """Submit what is not known; add it to `known` and its futures to `futures`. Return the status objects that were created."""
        created: list[ListedStatus] = []
        while left := [key for key in wanted.firsts if key not in known]:
            called = [(key, wanted.calls[wanted.firsts[key]]) for key in left]
            gathered = gather(called, self._session, self._pieces, self._place_of)
            self._store_function(wanted.prepared)
            # Before the entry: a client that creates its missing objects knows a limit's name, and not its number.
            self._announcer.announce(placing(wanted.options), wanted.options.options.limit)
            # Crash here: nothing is submitted. The session's deletion removes function and calls.
            if not self._log.append(self._entry(wanted, gathered)):
                self._log.read()
                found = self._known(wanted, left)
                others = {key: sequence for key, sequence in found.items() if sequence not in cancelled}
                known.update(others)
                created += self._find(ordinal, others.values(), futures)[1]
                continue
            entry = self._log.last()
            assert entry is not None  # it was appended  # noqa: S101
            # Crash here: the tasks are submitted, but no worker sees them until a client with one of these keys comes.
            listing = self._create(entry, list(entry.refs(ordinal)), gathered.records)
            for listed in listing:
                self._watch(listed, range(listed.ref.n_tasks), futures)
            created += listing
            self.n_submitted += entry.n_tasks
            known.update(zip(gathered.keys, range(entry.first, entry.first + entry.n_tasks), strict=True))
        return created

    def _entry(self, wanted: Wanted, gathered: Gathered) -> OnceEntry:
        slots = self._session.manifest.current.slots
        return OnceEntry(
            number=0,
            first=0,
            first_object=0,
            sizes=sizes_of(gathered.records, slots),
            keys=b"".join(gathered.keys),
            arguments=b"".join(wanted.arguments[wanted.firsts[key]] for key in gathered.keys),
            function=wanted.prepared.digest,
            function_name=function_name(wanted.function),
            signature=signature_text(wanted.function),
            texts=wanted.texts(gathered.keys),
            lengths=pack_lengths(gathered.records),
            records=b"" if gathered.calls_id else b"".join(gathered.records),
            calls_id=gathered.calls_id,
            start=gathered.start,
            name=gathered.name,
            options=wanted.options.packed,
            labels=wanted.labels(gathered.keys),
            ending=placing(wanted.options).ending,
        )

    def _store_function(self, prepared: Prepared) -> None:
        if prepared.digest in self._stored:
            return
        session = self._session
        body = session.sealer.sealed("function", prepared.digest, prepared.pickled)
        with suppress(PreconditionFailed):  # it is there: the key is its digest
            session.store.create(session.keys.function(prepared.digest), body)
        self._stored.add(prepared.digest)

    def _create(self, entry: OnceEntry, refs: Sequence[StatusRef], records: Sequence[bytes]) -> list[ListedStatus]:
        """Create status objects of an entry; return them all, whether this client or another one created them."""
        session = self._session
        places = entry.places()
        for epoch in sorted({ref.epoch for ref in refs}):
            open_epoch(session, refs[0].ordinal, epoch)

        def create(ref: StatusRef) -> ListedStatus:
            key = session.keys.status(ref)
            record = status_of(session, entry, ref, records, places)
            body = encoding.encode(record, session.clock.new_id())
            try:
                etag = session.store.create(key, body)
            except PreconditionFailed:
                return ListedStatus(key, ref, SizeClass.SOME_PENDING, "", 0.0)
            return ListedStatus(key, ref, encoding.size_class(record), etag, 0.0)

        return fan_out(session.store, create, refs)


def _digest_of_function(function: Callable[..., Any], *, has_keys: bool) -> bytes:
    """Return what tells a function from others: its name, and of lambdas the code too, as all have the same name; a key is name enough."""
    found: list[Any] = []
    digest = digest_of(function, code=found)
    lambdas = [] if has_keys else [one for one in found if one.__qualname__.endswith("<lambda>")]
    return digest_of(digest, [list(code_words(one.__code__)) for one in lambdas]) if lambdas else digest
