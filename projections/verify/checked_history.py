"""The stored history, checked event by event while it is read.

Each event is checked: its place (positions and versions without gaps, times that do not
decrease), the types of its columns, its body, its link in the hash chain, and its content.
Either content and salt are both there and match the event's digest, or both are missing and
an ``erased`` event of the job covers the event.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Final

from msgspec.structs import replace
from sqlalchemy import Connection, exc, func, select

from ledger.errors import Corrupt
from ledger.log import codec, hash_chain, store
from ledger.log.recorded import Recorded, Stored
from ledger.log.schema import events
from ledger.log.store import Envelope, Head
from ledger.projections.rebuild.compare import is_undecodable
from ledger.projections.report import MOST_DIFFERENCES, Report
from ledger.projections.verify.erasures import Erasures
from ledger.rules.events import Created, Erased

BATCH: Final = 5_000

_NULL: Final = type(None)
# SQLite stores any type in any column, and a leaf does not distinguish 7 from "7", or null
# from "None".
_TYPES: Final[Sequence[tuple[type, ...]]] = (
    *((int,), (int,), (int,), (str,), (int,), (int,), (str,)),
    (str, _NULL),  # cause
    (str,),  # body
    (str, _NULL),  # content
    (bytes, _NULL),  # salt
    (bytes, _NULL),  # digest
    (bytes,),
)
_SHAPES: Final = frozenset(product(*_TYPES))


class CheckedHistory:
    """The stored history, checked column by column while it is read.

    Args:
        connection: On a snapshot.
        head: The end of history, according to the ledger.
        report: Where to record differences.
        content: Whether to fill ``event.content``.
        envelope: Whether to fill ``stored``.
        batch: Number of events read at once.
    """

    def __init__(
        self,
        connection: Connection,
        head: Head,
        report: Report,
        *,
        content: bool,
        envelope: bool,
        batch: int = BATCH,
    ) -> None:
        self._connection = connection
        self._head = head
        self._report = report
        self._content = content
        self._envelope = envelope
        self._batch = batch
        self._erasures = Erasures(connection)
        self._at_ms = 0
        self._last_job_id = 0
        self._link = hash_chain.GENESIS
        self._reader_versions = {1}

    def __iter__(self) -> Iterator[list[Recorded]]:
        """Yield the decoded events, in lists.

        Raises:
            Corrupt: A position is missing, or an event cannot be read.
        """
        while self._report.position < self._head.position:
            envelopes = self._read(after=self._report.position, limit=self._batch)
            if not envelopes:
                missing = self._report.position + 1
                raise Corrupt(f"event {missing} is missing", position=missing)
            recorded = [self._check(envelope) for envelope in envelopes]
            self._report.chain = self._link.hex()
            self._erasures.flush()
            yield recorded

    def _read(self, *, after: int, limit: int) -> list[Envelope]:
        try:
            return store.read_after(self._connection, after=after, limit=limit)
        except exc.OperationalError as error:
            if not is_undecodable(error):
                raise
            if limit == 1:
                position = after + 1
                raise Corrupt(f"event {position}: {error.orig}", position=position) from error
        # One of them cannot be decoded: read fewer, so that those before it are checked first.
        return self._read(after=after, limit=limit // 2)

    def _check(self, envelope: Envelope) -> Recorded:
        report = self._report
        position = report.position + 1
        if envelope.position != position:
            raise Corrupt(f"event {position} is missing", position=position)
        _check_types(envelope)
        report.position = position
        if envelope.at_ms < self._at_ms:
            self._differ(position, f"a time of {self._at_ms} or later", envelope.at_ms)
        self._at_ms = envelope.at_ms
        self._check_content(envelope)
        self._check_link(envelope)
        try:
            event = codec.decode(envelope.kind, envelope.schema, envelope.body)
        except Corrupt as error:
            raise Corrupt(str(error), position=position) from error
        self._reader_versions.add(event.reader_version)
        if isinstance(event, Created):
            self._last_job_id += 1
            if envelope.job_id != self._last_job_id:
                expected = f"the creation of job {self._last_job_id}"
                self._differ(position, expected, envelope.job_id)
        elif isinstance(event, Erased):
            self._erasures.note_erased(position, envelope.job_id, envelope.version, event)
        if self._content and envelope.content is not None:
            event = replace(event, content=envelope.content)
        stored = None
        if self._envelope:
            stored = Stored(envelope.schema, envelope.body, envelope.digest)
        return Recorded(
            position,
            envelope.job_id,
            envelope.version,
            envelope.at_ms,
            envelope.actor,
            envelope.cause,
            event,
            stored,
        )

    def _check_content(self, envelope: Envelope) -> None:
        position, content, salt, digest = (
            envelope.position,
            envelope.content,
            envelope.salt,
            envelope.digest,
        )
        if content is None and salt is None:
            if digest is not None:
                self._erasures.note_gone(position, envelope.job_id, envelope.version)
        elif salt is None:
            self._differ(position, "content and its salt, or neither", "content without salt")
        elif content is None:
            self._differ(position, "content and its salt, or neither", "salt without content")
        elif len(salt) != hash_chain.SALT_BYTES:
            # A longer one could be a salt followed by the beginning of the content.
            self._differ(position, f"a salt of {hash_chain.SALT_BYTES} bytes", f"{len(salt)} bytes")
        else:
            computed = hash_chain.digest(salt, content)
            if computed != digest:
                found = "none" if digest is None else digest.hex()
                self._differ(position, f"content with the digest {found}", computed.hex())

    def _check_link(self, envelope: Envelope) -> None:
        leaf = hash_chain.leaf(
            position=envelope.position,
            job_id=envelope.job_id,
            version=envelope.version,
            kind=envelope.kind,
            schema=envelope.schema,
            at_ms=envelope.at_ms,
            actor=envelope.actor,
            cause=envelope.cause,
            body=envelope.body,
            digest=envelope.digest,
        )
        link = hash_chain.link(self._link, leaf)
        # Continue from the stored value; otherwise every later event would be reported too.
        self._link = envelope.chain
        if link != envelope.chain:
            expected = f"the chain value {link.hex()}"
            self._differ(envelope.position, expected, envelope.chain.hex())

    def _differ(self, position: int, expected: object, found: object) -> None:
        self._report.differ(f"event {position}", expected, found)

    def compare_erasures(self) -> None:
        """Compare the content that is missing with the ``erased`` events."""
        self._report.erased = self._erasures.number()
        for position, job_id in self._erasures.uncovered(limit=MOST_DIFFERENCES):
            expected = f"content, or an `erased` event of job {job_id} that covers it"
            self._differ(position, expected, "neither: its content is missing")
        for position, erased_at in self._erasures.kept(limit=MOST_DIFFERENCES):
            self._differ(position, f"no content: event {erased_at} erased it", "content or salt")

    def compare_head(self) -> None:
        """Compare the end of history with the row of the head."""
        number = self._connection.scalar(select(func.count()).select_from(events)) or 0
        if number != self._head.position:
            self._report.differ("head", f"{self._head.position} events", f"{number} events")
        computed = Head(
            self._report.position,
            self._link,
            self._last_job_id,
            self._at_ms,
            max(self._reader_versions),
        )
        for name, expected, found in zip(Head._fields, computed, self._head, strict=True):
            if expected != found:
                self._report.differ(f"head {name}", _shown(expected), _shown(found))


def _check_types(envelope: Envelope) -> None:
    if tuple(map(type, envelope)) in _SHAPES:
        return
    for name, value, allowed in zip(Envelope._fields, envelope, _TYPES, strict=True):
        if type(value) not in allowed:
            position = envelope.position
            expected = " or ".join(_TYPE_NAMES[each] for each in allowed)
            found = _TYPE_NAMES.get(type(value), type(value).__name__)
            raise Corrupt(f"event {position}: {name} is {found}, not {expected}", position=position)


_TYPE_NAMES: Final[dict[type, str]] = {
    int: "an integer",
    str: "text",
    bytes: "bytes",
    float: "a number with a fraction",
    _NULL: "null",
}


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
