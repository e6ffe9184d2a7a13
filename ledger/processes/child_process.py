"""A child process that runs a command of ``ledger``, and the socket that it shares with us.

The parent sends the number of stop requests so far, and the child sends reports;
``parent_connection`` is the child's side.  The socket is also the child's lifeline: the kernel
closes the parent's end when the parent dies, however it dies, and the child then stops.

If we read the child's output through a pipe, the child inherits the read end too: see
``lost_output``.

The socket is not the child's standard input, because handlers run in some children: a program
that a handler starts inherits the standard input, and would read the stop requests.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from ledger.processes.child_output import ChildOutput, OutputPipe
from ledger.processes.stop_requests import STOP_SIGNALS

_CHUNK_BYTES: Final = 65_536

# Where output goes: where ours goes, nowhere, or to a ``ChildOutput``.
Output = Literal["inherited", "discarded", "captured"]


class ChildSpec(NamedTuple):
    """How to start a child process.

    Attributes:
        name: What the log calls it.
        arguments: The arguments of ``ledger``.  They are visible to every user of the machine,
            so a password must be in a variable.
        variables: Environment variables, in addition to ours.
        stdout: Where its standard output goes.
        stderr: Where its standard error goes.
        own_group: Whether it has its own process group, which a terminal's Ctrl-C does not reach.
    """

    name: str
    arguments: Sequence[str]
    variables: Mapping[str, str] = MappingProxyType({})
    stdout: Output = "inherited"
    stderr: Output = "inherited"
    own_group: bool = False


class ChildProcess:
    """A child process that has been started, until it is reaped.

    Args:
        spec: How to start it.
        output: Reads its output, if that is captured.

    Attributes:
        pid: Its process id.
        began_s: When it was started, on the monotonic clock.
        connection: Our end of the socket; None once the child has closed its end.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(self, spec: ChildSpec, output: ChildOutput | None) -> None:
        self._output = output
        self._pipe: OutputPipe | None = None
        if output is not None and "captured" in {spec.stdout, spec.stderr}:
            self._pipe = output.open()
        self.connection: socket.socket | None
        self.connection, theirs = socket.socketpair()
        try:
            with theirs, _stop_signals_blocked():
                self._popen = _popen(spec, theirs.fileno(), self._pipe)
        except BaseException:
            self.connection.close()
            raise
        finally:
            if self._pipe is not None:
                self._pipe.close_write_end()
        self.pid = self._popen.pid
        self.began_s = time.monotonic()
        # The beginning of a report.
        self._unread = b""

    @property
    def exit_code(self) -> int | None:
        """Return its exit code, minus a signal's number, or None while it runs; reap it."""
        return self._popen.poll()

    def request_stop(self, number: int) -> None:
        """Send it the number of stop requests."""
        # It may have ended.
        with suppress(OSError):
            if self.connection is not None:
                self.connection.send(b"%d\n" % number, socket.MSG_DONTWAIT)

    def receive(self) -> list[bytes]:
        """Return all reports that have arrived, each without its line feed."""
        reports: list[bytes] = []
        while self.connection is not None:
            try:
                some = self.connection.recv(_CHUNK_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError:
                some = b""
            if some:
                *lines, self._unread = (self._unread + some).split(b"\n")
                reports += lines
            else:
                # It is ending.  A connection at its end would make every wait return at once.
                self.disconnect()
        return reports

    def kill(self) -> None:
        """End it at once, unless it has ended."""
        self._popen.kill()

    def disconnect(self) -> None:
        """Close our end of the socket, which stops it unless a forked process has a copy."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def show_rest(self) -> None:
        """Show the output that has not been read yet."""
        if self._output is not None and self._pipe is not None:
            self._output.read_rest(self._pipe)


@contextmanager
def _stop_signals_blocked() -> Iterator[None]:
    """Block the stop signals in this thread; a child that is started now inherits that.

    The child unblocks them once it has set its handlers, so that none of them ends it before.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _popen(spec: ChildSpec, connection: int, pipe: OutputPipe | None) -> "subprocess.Popen[bytes]":
    command, *arguments = spec.arguments
    targets = {
        "inherited": None,
        "discarded": subprocess.DEVNULL,
        "captured": None if pipe is None else pipe.write_end,
    }
    return subprocess.Popen(  # noqa: S603 - no shell, and arguments that were checked
        [
            sys.executable,
            # Options such as -W and -O, which multiprocessing passes on in the same way.
            *subprocess._args_from_interpreter_flags(),  # type: ignore[attr-defined]  # noqa: SLF001 - it has no other name
            # Do not import a module named ledger from the working directory.
            "-P",
            *("-m", "ledger", command, f"--parent={connection}"),
            *([] if pipe is None else [f"--output={pipe.read_end}"]),
            *arguments,
        ],
        stdin=subprocess.DEVNULL,
        stdout=targets[spec.stdout],
        stderr=targets[spec.stderr],
        pass_fds=(connection,) if pipe is None else (connection, pipe.read_end),
        env=os.environ | dict(spec.variables),
        process_group=0 if spec.own_group else None,
    )
