"""Serving on a Unix socket, without harm to what lies at its path."""

import os
import signal
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.servers import DEADLINE_S, surroundings, tool, wait_until


@contextmanager
def served(path: Path, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Yield a server on the socket *path*."""
    url = f"sqlite:///{folder / 'ledger.db'}"
    process = subprocess.Popen(
        [tool("ledger"), "serve", "--processes", "1", "--bind", f"unix:{path}"],
        env=surroundings(folder, LEDGER_DATABASE_URL=url),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_answer(path: Path) -> None:
    wait_until(lambda: b"live" in answer(path), "the server answers")


def answer(path: Path) -> bytes:
    """Return what is answered at *path*; nothing if nobody listens."""
    with socket.socket(socket.AF_UNIX) as connection:
        if connection.connect_ex(str(path)) != 0:
            return b""
        connection.sendall(
            b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def refused(path: Path, folder: Path) -> str:
    """Return what a server says that does not start."""
    with served(path, folder) as process:
        _, error = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert b"Traceback" not in error
    return error.decode()


def bound(path: Path, kind: socket.SocketKind) -> socket.socket:
    """Return a socket that is bound to *path*, and does not listen."""
    one = socket.socket(socket.AF_UNIX, kind)
    one.bind(str(path))
    return one


def a_file(path: Path) -> None:
    path.write_text("kept")
    path.chmod(0o640)


def a_symlink_to_a_file(path: Path) -> None:
    a_file(path.with_suffix(".txt"))
    path.symlink_to(path.with_suffix(".txt"))


def a_symlink_to_nothing(path: Path) -> None:
    path.symlink_to(path.with_suffix(".nowhere"))


def a_symlink_to_a_socket_that_nobody_listens_on(path: Path) -> None:
    bound(path.with_suffix(".other"), socket.SOCK_STREAM).close()
    path.symlink_to(path.with_suffix(".other"))


def found(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Return inode, mode and content of all that is in *folder*."""
    shown = {}
    for path in folder.iterdir():
        of = path.lstat()
        content = path.read_text() if stat.S_ISREG(of.st_mode) else ""
        shown[path.name] = (of.st_ino, of.st_mode, content)
    return shown


@pytest.mark.parametrize(
    "make",
    [
        a_file,
        a_symlink_to_a_file,
        a_symlink_to_nothing,
        a_symlink_to_a_socket_that_nobody_listens_on,
        Path.mkdir,
        os.mkfifo,
    ],
)
def test_what_is_no_socket_is_left_alone(make: Callable[[Path], None], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    path = folder / "ledger.sock"
    make(path)
    before = found(folder)

    error = refused(path, tmp_path)

    assert error == (
        f"Error: cannot create a socket at {path}: it exists and is not a socket; choose another "
        "path with --bind unix:PATH, or stop the process that uses it and remove it\n"
    )
    assert found(folder) == before


@pytest.mark.parametrize(
    "kind",
    [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET],
    ids=["stream", "datagram", "seqpacket"],
)
def test_the_socket_of_a_running_process_is_left_alone(
    kind: socket.SocketKind, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    path = folder / "ledger.sock"
    with bound(path, kind) as other:
        if kind != socket.SOCK_DGRAM:
            other.listen()
        before = found(folder)

        error = refused(path, tmp_path)

        assert f"{path}: it is the socket of a running process; " in error
        assert found(folder) == before


def test_a_process_too_busy_to_accept_keeps_its_socket(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sock"
    with bound(path, socket.SOCK_STREAM) as other, socket.socket(socket.AF_UNIX) as waiting:
        other.listen(0)
        waiting.connect(str(path))

        error = refused(path, tmp_path)

        assert "it is the socket of a running process" in error
        assert path.is_socket()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a socket to another user")
def test_the_socket_of_another_user_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sock"
    bound(path, socket.SOCK_STREAM).close()
    os.chown(path, 65_534, 65_534)

    error = refused(path, tmp_path)

    assert f"{path}: it is the socket of another user; " in error
    assert path.is_socket()


@pytest.mark.parametrize("written", ["{}", "//{}"])
def test_a_socket_that_nobody_listens_on_is_replaced(written: str, tmp_path: Path) -> None:
    path = tmp_path / "ledger.sock"
    bound(path, socket.SOCK_STREAM).close()

    with served(Path(written.format(path)), tmp_path) as process:
        wait_for_answer(path)
        process.send_signal(signal.SIGTERM)
        code = process.wait(DEADLINE_S)

    assert code == 0
    assert not path.exists()


def test_a_socket_is_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sock"
    before = os.umask(0)
    try:
        with served(path, tmp_path):
            wait_for_answer(path)
            mode = stat.S_IMODE(path.stat().st_mode)
    finally:
        os.umask(before)

    assert mode == 0o600


def test_a_server_that_stops_leaves_the_socket_of_its_successor(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sock"
    with served(path, tmp_path) as process:
        wait_for_answer(path)
        path.unlink()
        with bound(path, socket.SOCK_STREAM) as successor:
            successor.listen()
            process.send_signal(signal.SIGTERM)
            _, error = process.communicate(timeout=DEADLINE_S)
            with socket.socket(socket.AF_UNIX) as client:
                reached = client.connect_ex(str(path))

    assert (process.returncode, error, reached) == (0, b"", 0)


def test_a_server_whose_socket_was_removed_stops_well(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sock"
    with served(path, tmp_path) as process:
        wait_for_answer(path)
        path.unlink()
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=DEADLINE_S)

    assert (process.returncode, error) == (0, b"")


def test_a_socket_that_systemd_opened_is_served_and_left_to_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sock"
    with bound(path, socket.SOCK_STREAM) as opened:
        opened.listen()
        # systemd passes sockets on from file descriptor 3, to the process that it names.
        command = (
            f"exec 3<&{opened.fileno()}; exec env LISTEN_FDS=1 LISTEN_PID=$$ "
            f"{tool('ledger')} serve --processes 1 --bind unix:{path}"
        )
        process = subprocess.Popen(
            ["bash", "-c", command],
            env=surroundings(tmp_path, LEDGER_DATABASE_URL=f"sqlite:///{tmp_path / 'ledger.db'}"),
            cwd=tmp_path,
            pass_fds=(opened.fileno(),),
        )
        with process:
            try:
                wait_for_answer(path)
                process.send_signal(signal.SIGTERM)
                code = process.wait(DEADLINE_S)
            finally:
                process.kill()

    assert code == 0
    assert path.is_socket()
