"""Capture of everything that is written to the terminal, line by line.

It replaces the file descriptors.  Replacing ``sys.stdout`` is not enough: a logger may hold
the standard error that existed when the application was imported, a handler may run a
program, and child processes inherit our descriptors.  All output goes into a pipe, which a
thread reads.
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

# Longest time to read the rest of the pipe at the end: a process that still has it open may
# go on writing.
_LONGEST_END_S: Final = 1.0
_PAUSE_S: Final = 0.1
_CHUNK_BYTES: Final = 65_536


class Captured:
    """A capture of standard output and standard error, each if it is a terminal.

    Args:
        to: Called with one or more lines at a time, in a thread.
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
        # Do not wait for the pipe's end: a program that a handler started may hold it open.
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
        # If the terminal is gone, go on reading, so that writers do not block on a full pipe.
        with suppress(OSError):
            if lines:
                self._to([_as_shown(line) for line in lines])


def _as_shown(line: bytes) -> str:
    """Return what a terminal shows of a line: the text after its last carriage return."""
    text = line.decode(errors="replace").rstrip("\r")
    return text.rpartition("\r")[2].expandtabs()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
