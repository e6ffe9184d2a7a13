"""Requests as their bytes arrive: whether a whole one is there.

A thread gets a request only when all of its bytes have come.  gunicorn's parser alone decides
what the request is and whether it is valid; this module decides only when to hand it over.  A
request that it finds invalid is handed over as far as it has come, and gunicorn refuses it: the
parser that asks for more than there is gets ``IncompleteRequest``, and never waits for a client.
If the two disagree about where a request ends, the connection is closed after the answer, because
what follows might be a request that somebody has smuggled into another one.
"""

import re
from typing import Final, NamedTuple

from gunicorn.http.errors import InvalidHeader

_HEAD_END: Final = b"\r\n\r\n"
_SIZE: Final = re.compile(rb"[0-9a-fA-F]{1,15}\Z")
# More digits than any body that fits on a disk.
_MOST_DIGITS: Final = 15
# A line with the size of a chunk, as gunicorn limits it.
_LONGEST_SIZE_LINE: Final = 8190
# A chunk with one byte of content, and what a body in chunks may have besides such chunks.
_BYTES_A_CHUNK: Final = 6
_CHUNKS_BYTES: Final = 64 * 1024
# A body in chunks that is too large is handed over with this much more than is allowed: gunicorn
# reads up to 1 KiB more than the app asks for, and the app asks for one byte more.
_READ_AHEAD: Final = 2048


class ArrivalLimits(NamedTuple):
    """The sizes from which a request is handed over, to be refused.

    Attributes:
        line: Longest request line, in bytes.
        head: Largest head, in bytes.
        body: Largest body, in bytes.
    """

    line: int
    head: int
    body: int


class IncompleteRequest(InvalidHeader):  # type: ignore[misc]  # gunicorn ships no types
    """A request of which a part is missing."""

    def __init__(self) -> None:
        super().__init__("")

    def __str__(self) -> str:
        return "it is incomplete"


class RequestArrival:
    """One request, and what its client has sent after it.

    Attributes:
        is_complete: Whether a thread should have it.
        is_last: Whether the connection must be closed after it, because the end of the request
            is not known, or has not come.
        has_head: Whether the whole head is there.
        awaits_continue: Whether the client sends the body only after ``100 Continue``.
    """

    # Every request has one of these, and most need few of these values.
    _received: bytes | bytearray = b""
    # Up to here, the end of the head has been looked for.
    _searched = 0
    _end = 0
    _read = 0
    _chunks: "_Chunks | None" = None
    is_complete = False
    is_last = False
    has_head = False
    awaits_continue = False

    def __init__(self, limits: ArrivalLimits, received: bytes = b"") -> None:
        self._limits = limits
        if received:
            self.add(received)

    def __len__(self) -> int:
        return len(self._received)

    def add(self, data: bytes) -> None:
        """Add bytes that have come."""
        if not self._received:
            self._received = data
        else:
            if isinstance(self._received, bytes):
                self._received = bytearray(self._received)
            self._received += data
        if self.is_complete:
            return
        if not self.has_head:
            self._look_for_head()
        elif self._chunks is not None:
            self._look_for_last_chunk(self._chunks)
        elif len(self._received) >= self._end:
            self.is_complete = True

    def cut(self) -> None:
        """Hand over what is there, because nothing more will come."""
        self._end = len(self._received)
        self.is_complete = self.is_last = True

    def read(self, most: int) -> bytes:
        """Return the next bytes of the complete request, for gunicorn's parser.

        Raises:
            IncompleteRequest: There are none.
        """
        start, end = self._read, min(self._read + most, self._end)
        if start >= end:
            raise IncompleteRequest
        self._read = end
        if not start and end == len(self._received) and isinstance(self._received, bytes):
            return self._received
        return bytes(self._received[start:end])

    @property
    def has_chunks(self) -> bool:
        """Whether the body is in chunks."""
        return self._chunks is not None

    @property
    def is_read(self) -> bool:
        """Whether the parser has read the request to its end."""
        return self._read == self._end

    @property
    def rest(self) -> bytes:
        """What has come after the complete request."""
        return bytes(self._received[self._end :])

    def _look_for_head(self) -> None:
        received = self._received
        found = received.find(_HEAD_END, max(0, self._searched - len(_HEAD_END) + 1))
        if found < 0:
            self._check_unfinished_head()
            return
        self.has_head = True
        end = found + len(_HEAD_END)
        head = bytes(received[:end]).lower()
        if b"\ncontent-length" not in head and b"\ntransfer-encoding" not in head:
            self._end = end
            self.is_complete = True
        else:
            self._begin_body(head, end)

    def _check_unfinished_head(self) -> None:
        received = self._received
        at = received.find(b"\n", self._searched)
        while at >= 0:
            if received[at - 1 : at] != b"\r":
                self.cut()  # Such a head may never end.
                return
            at = received.find(b"\n", at + 1)
        self._searched = len(received)
        if len(received) > self._limits.head or (
            len(received) > self._limits.line and received.find(b"\n", 2) < 0
        ):
            self.cut()

    def _begin_body(self, head: bytes, start: int) -> None:
        fields = [line.partition(b":") for line in head.split(b"\r\n")]
        lengths = [value.strip() for name, _, value in fields if name == b"content-length"]
        codings = [value for name, _, value in fields if name == b"transfer-encoding"]
        if b"chunked" in b"".join(codings) and not lengths:
            self._chunks = _Chunks(start, self._limits)
        elif not codings and len(lengths) == 1 and lengths[0].isdigit():
            digits = lengths[0].lstrip(b"0") or b"0"
            if len(digits) > _MOST_DIGITS or int(digits) > self._limits.body:
                self._refuse(start)
                return
            self._end = start + int(digits)
        elif codings or lengths:
            self._refuse(start)
            return
        else:
            self._end = start
        expected = [value.strip() for name, _, value in fields if name == b"expect"]
        if expected and expected != [b"100-continue"]:
            self._refuse(start)
            return
        first_line = head.lstrip(b"\r\n").partition(b"\r\n")[0]
        if self._chunks is not None:
            self._look_for_last_chunk(self._chunks)
        else:
            self.is_complete = len(self._received) >= self._end
        nothing_yet = len(self._received) == start
        self.awaits_continue = (
            bool(expected)
            and nothing_yet
            and not self.is_complete
            and first_line.endswith(b"http/1.1")
        )

    def _refuse(self, start: int) -> None:
        """Hand over the head alone: it is invalid, or its body is too large."""
        self._end = start
        self.is_complete = self.is_last = True

    def _look_for_last_chunk(self, chunks: "_Chunks") -> None:
        end = chunks.end_in(self._received)
        if end is not None:
            self._end = end
            self.is_complete = True
        elif chunks.is_invalid:
            self.cut()


class _Chunks:
    """A body in chunks, which are followed as they come.

    Args:
        start: Where it starts.
        limits: The largest body and the largest trailers.
    """

    def __init__(self, start: int, limits: ArrivalLimits) -> None:
        self._start = start
        self._limits = limits
        # The next line, or what follows the content of a chunk.
        self._at = start
        self._is_in_chunk = False
        self._is_in_trailers = False
        self._searched = start
        self._content_bytes = 0
        self.is_invalid = False

    def end_in(self, received: bytes | bytearray) -> int | None:
        """Return where the body ends; None if that has not come, or if it is invalid."""
        while not (self.is_invalid or self._is_in_trailers):
            followed = self._follow_content if self._is_in_chunk else self._follow_size
            if not followed(received):
                self._check_size(len(received) - self._start)
                return None
        return None if self.is_invalid else self._trailers_end(received)

    def _check_size(self, size: int) -> None:
        most = self._limits.body
        if self._content_bytes > most + _READ_AHEAD or size > _BYTES_A_CHUNK * most + _CHUNKS_BYTES:
            self.is_invalid = True

    def _follow_size(self, received: bytes | bytearray) -> bool:
        found = received.find(b"\r\n", max(self._at, self._searched - 1))
        if found < 0:
            self._searched = len(received)
            self.is_invalid = len(received) - self._at > _LONGEST_SIZE_LINE
            return False
        digits = bytes(received[self._at : found]).partition(b";")[0].rstrip(b" \t")
        if not _SIZE.match(digits):
            self.is_invalid = True
            return False
        size = int(digits, 16)
        self._at = self._searched = found + 2
        if size:
            self._at += size
            self._is_in_chunk = True
        else:
            self._is_in_trailers = True
        return True

    def _follow_content(self, received: bytes | bytearray) -> bool:
        come = min(len(received), self._at)
        self._content_bytes += come - self._searched
        self._searched = come
        if len(received) < self._at + 2:
            return False
        self.is_invalid = received[self._at : self._at + 2] != b"\r\n"
        self._at = self._searched = self._at + 2
        self._is_in_chunk = False
        return not self.is_invalid

    def _trailers_end(self, received: bytes | bytearray) -> int | None:
        if received[self._at : self._at + 2] == b"\r\n":
            return self._at + 2
        found = received.find(_HEAD_END, max(self._at, self._searched - len(_HEAD_END) + 1))
        if found >= 0:
            return found + len(_HEAD_END)
        self._searched = len(received)
        self.is_invalid = len(received) - self._at > self._limits.head
        return None
