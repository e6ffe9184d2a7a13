"""Take what is written to the terminal, by whomever, line by line.

By file descriptor, as no less will do: a logger was set up with the standard error that
there was when the application was imported, a handler runs a program, a child process
inherits what we have.  All of it goes into a pipe, and a thread reads that.
"""

import os
import select
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

# At the end, what is in the pipe is read for at most so long: whoever holds it may write on.
_LONGEST_END_S: Final = 1.0
_PAUSE_S: Final = 0.1
_CHUNK_BYTES: Final = 65_536


class Captured:
    """Take what goes to standard output and error, as far as those are a terminal.

    Args:
        to: Called with some lines at a time, in a thread.
    """

    def __init__(self, to: Callable[[Sequence[str]], None]) -> None:
        self._to = to
        self._kept: dict[int, int] = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._read, name="ledger-captured", daemon=True)

    def __enter__(self) -> Self:
        _flush()
        self._pipe, end = os.pipe()
        for number in (1, 2):
            if os.isatty(number):
                self._kept[number] = os.dup(number)
                os.dup2(end, number)
        os.close(end)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _flush()
        for number, kept in self._kept.items():
            os.dup2(kept, number)
            os.close(kept)
        # Its end is not waited for: a program that a handler began may have it open.
        self._ending.set()
        self._thread.join()
        os.close(self._pipe)

    def _read(self) -> None:
        begun = b""
        end_s = float("inf")
        while time.monotonic() < end_s:
            ending = self._ending.is_set()
            if ending and end_s == float("inf"):
                end_s = time.monotonic() + _LONGEST_END_S
            if select.select([self._pipe], [], [], 0 if ending else _PAUSE_S)[0]:
                some = os.read(self._pipe, _CHUNK_BYTES)
                *lines, begun = (begun + some).split(b"\n")
                if len(begun) > _CHUNK_BYTES:
                    lines, begun = [*lines, begun], b""
                self._tell(lines)
                if not some:
                    break
            elif ending:
                break
        self._tell([begun] if begun else [])

    def _tell(self, lines: Sequence[bytes]) -> None:
        # Should the terminal be gone, whoever writes must not wait for it.
        with suppress(OSError):
            if lines:
                self._to([_as_shown(line) for line in lines])


def _as_shown(line: bytes) -> str:
    """Return what a terminal shows of a line: what came behind the last return."""
    text = line.decode(errors="replace").rstrip("\r")
    return text.rpartition("\r")[2].expandtabs()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
