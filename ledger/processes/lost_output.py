"""Standard output and error that can be written to after their reader has gone.

A terminal is closed, or the program behind a pipe ends: from then on every write fails, and a
handler that prints would fail its attempt.  ``survive_lost_output`` prevents that in two ways:

- ``sys.stdout`` and ``sys.stderr`` are replaced by streams that discard what cannot be written
  any more.  No write to them fails, however they are reached; so this must happen before the
  application is imported, which may keep a reference to them.
- A thread waits for the loss and puts the null device in the place of the descriptor.  This is
  for what writes to the descriptor itself: ``os.write``, C libraries, programs that are started.
  Their writes can fail within the milliseconds between the loss and the replacement.

If the reader is our own parent process, there are no such milliseconds: see ``OutputToParent``.

Output that was lost once is discarded for good, even if a named pipe gets a new reader.
"""

import io
import os
import select
import stat
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_STANDARD: Final = (1, 2)
_LOST: Final = select.POLLERR | select.POLLHUP
# A kernel need not end a poll when a terminal is closed.
_CHECK_MS: Final = 1_000
_CHUNK_BYTES: Final = 65_536


def survive_lost_output() -> None:
    """Discard what is written to standard output and error once they have no reader."""
    descriptors = []
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        # A stream is None if it is closed, and has no descriptor if a test captures it.
        with suppress(OSError, ValueError):
            if isinstance(stream, io.TextIOWrapper):
                descriptors.append(stream.fileno())
                lasting = _lasting(stream)
                if getattr(sys, f"__{name}__") is stream:
                    setattr(sys, f"__{name}__", lasting)
                setattr(sys, name, lasting)
    breakable = {each for each in descriptors if _can_be_lost(each)}
    if breakable:
        threading.Thread(
            target=_discard_lost, args=(breakable,), name="ledger-output", daemon=True
        ).start()


def _lasting(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """Return a stream like *stream* that discards what cannot be written any more."""
    stream.flush()
    raw = _LastingFile(stream)
    # With ``python -u``, nothing is buffered.
    unbuffered = isinstance(stream.buffer, io.RawIOBase)
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _LastingFile(io.FileIO):
    """A descriptor that is replaced by the null device as soon as it has no reader."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        super().__init__(stream.fileno(), "wb", closefd=False)
        self.name = stream.name
        # A stream that is not Python's own, such as open(1, "w"), would close the descriptor with
        # its last reference.
        self._stream = stream

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            return super().write(data)
        except OSError:
            if _is_lost(self.fileno()):
                try:
                    _discard(self.fileno())
                except OSError:
                    # No descriptor is left for the null device: the next write tries again.
                    return memoryview(data).nbytes
            # If the error has another reason, it comes again.  It does not if another thread
            # has replaced the descriptor in between.
            return super().write(data)


def _can_be_lost(descriptor: int) -> bool:
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)


def _is_lost(descriptor: int) -> bool:
    """Return whether what is written to *descriptor* has no reader."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(happened & _LOST for _, happened in poll.poll(0))


def _discard(descriptor: int) -> None:
    """Put the null device in the place of a descriptor."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


def _discard_lost(descriptors: set[int]) -> None:
    """Wait until descriptors have no reader, and discard what is written to them."""
    poll = select.poll()
    for each in descriptors:
        # Without an event to wait for, a poll returns only when there is no reader any more.
        poll.register(each, 0)
    while descriptors:
        for each, happened in poll.poll(_CHECK_MS):
            # Not if it was closed: another file may have its number by now.
            if happened & _LOST:
                try:
                    _discard(each)
                except OSError:
                    # No descriptor is left for the null device.
                    time.sleep(_CHECK_MS / 1000)
                    continue
            poll.unregister(each)
            descriptors.discard(each)


class OutputToParent:
    """A pipe to our parent that does not break when the parent dies.

    This process holds the read end as well.  So the pipe has a reader as long as this
    process lives, and there is no moment at which a write could fail: neither a write of this
    process nor one of a program that it has started.  While the parent lives, only the parent
    reads.

    Args:
        read_end: The descriptor to read, which does not block.
    """

    def __init__(self, read_end: int) -> None:
        # Programs that handlers start must not inherit it, nor may forked processes keep it:
        # once we have ended, their writes must fail, not wait.
        self._read_end = open(read_end, "rb", buffering=0)  # noqa: SIM115 - open while we live
        os.set_inheritable(read_end, False)  # noqa: FBT003 - it takes no keyword
        os.register_at_fork(after_in_child=self._read_end.close)

    def discard(self) -> None:
        """Discard what was and will be written; called when the parent has died.

        Returns when nothing can be written any more.
        """
        read_end = self._read_end.fileno()
        for each in _STANDARD:
            with suppress(OSError):
                if os.path.sameopenfile(each, read_end):
                    # A write when Python ends would wait for ever: this thread has ended by then.
                    _discard(each)
        # What else has it open: writes that were waiting, and programs that were started before.
        poll = select.poll()
        poll.register(read_end, select.POLLIN)
        with suppress(OSError):
            while poll.poll():
                with suppress(BlockingIOError):
                    if not os.read(read_end, _CHUNK_BYTES):
                        return
