"""The output of child processes, read line by line through a pipe for each child."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from typing import Final

# How long pipes are read at the end: a process that still has one open may go on writing.
_LONGEST_END_S: Final = 1.0
# How soon the pipe of a new child is noticed.
_PAUSE_S: Final = 0.1
_CHUNK_BYTES: Final = 65_536


class OutputPipe:
    """A pipe from a child.

    Attributes:
        read_end: The descriptor to read, which does not block.
        write_end: The descriptor that the child inherits.
        unfinished: A line whose end has not been read.
        at_end: Whether there is nothing to read any more.
    """

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        self.unfinished = b""
        self.at_end = False

    def close_write_end(self) -> None:
        """Leave writing to the child; called once it is started."""
        os.close(self.write_end)

    def close(self) -> None:
        """Close the read end, even if something can still be written."""
        self.at_end = True
        os.close(self.read_end)

    def read_lines(self) -> list[bytes]:
        """Return the lines that end in the next chunk.

        Raises:
            BlockingIOError: There is nothing to read at present.
        """
        some = os.read(self.read_end, _CHUNK_BYTES)
        self.at_end = not some
        *lines, self.unfinished = (self.unfinished + some).split(b"\n")
        if self.unfinished and (self.at_end or len(self.unfinished) > _CHUNK_BYTES):
            lines, self.unfinished = [*lines, self.unfinished], b""
        return lines


class ChildOutput:
    """The output of child processes, which a thread reads.

    A process that a child has started may hold its pipe open.  So a pipe is read until nobody
    can write to it, and ``close`` does not wait for that.

    Args:
        show: Called with one or more lines at a time.  It must not raise: if nothing read the
            pipes, the children would wait for ever as soon as these are full.
    """

    def __init__(self, show: Callable[[Sequence[str]], object]) -> None:
        self._show = show
        self._pipes: list[OutputPipe] = []
        # Held while a pipe is read and its lines are shown, so that lines stay in order.
        self._mutex = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger-child-output", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def open(self) -> OutputPipe:
        """Return a pipe for a new child."""
        pipe = OutputPipe()
        with self._mutex:
            self._pipes.append(pipe)
        return pipe

    def read_rest(self, pipe: OutputPipe) -> None:
        """Show everything that is in a pipe now, such as the last words of a child."""
        self._read_until(pipe, time.monotonic() + _LONGEST_END_S)

    def close(self) -> None:
        """Show the rest of each pipe, and close them."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.is_set():
            with self._mutex:
                pipes = tuple(self._pipes)
            if not pipes:
                self._closing.wait(_PAUSE_S)
                continue
            ready = wait([pipe.read_end for pipe in pipes], timeout=_PAUSE_S)
            for pipe in pipes:
                if pipe.read_end in ready:
                    self._read(pipe)
                if pipe.at_end:
                    self._remove(pipe)
        end_s = time.monotonic() + _LONGEST_END_S
        for pipe in tuple(self._pipes):
            self._read_until(pipe, end_s)
            self._remove(pipe)

    def _read_until(self, pipe: OutputPipe, end_s: float) -> None:
        while self._read(pipe) and time.monotonic() < end_s:
            pass

    def _read(self, pipe: OutputPipe) -> bool:
        """Read a chunk and show its lines; return whether there may be more to read."""
        with self._mutex:
            if pipe.at_end:
                return False
            try:
                lines = pipe.read_lines()
            except BlockingIOError:
                return False
            if lines:
                self._show([_as_on_terminal(line) for line in lines])
        return True

    def _remove(self, pipe: OutputPipe) -> None:
        with self._mutex:
            # Only this thread closes pipes, because only it waits for them.
            pipe.close()
            self._pipes.remove(pipe)
            if pipe.unfinished:
                self._show([_as_on_terminal(pipe.unfinished)])


def _as_on_terminal(line: bytes) -> str:
    """Return what a terminal shows of a line: the text after its last carriage return."""
    text = line.decode(errors="replace").rstrip("\r")
    return text.rpartition("\r")[2].expandtabs()
