"""Files of every kind at paths where Ledger keeps its own, which it must not change."""

import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

ANOTHER_USER: Final = 12_345
_CONTENT: Final = b"somebody's only copy\n\0\xff"


class Seen(NamedTuple):
    """The visible properties of a file or directory; the entries of one are listed separately."""

    kind: int
    mode: int
    owner: int
    names: int
    content: bytes | str | None


def seen(*paths: Path) -> dict[Path, Seen]:
    """Return the properties of everything at *paths* and below them."""
    found: dict[Path, Seen] = {}
    for path in paths:
        there = path.lstat()
        content: bytes | str | None = None
        names = 0
        if stat.S_ISLNK(there.st_mode):
            content = str(path.readlink())
        elif stat.S_ISREG(there.st_mode):
            names = there.st_nlink
            # A user other than root cannot read every file, but sees its other properties.
            with suppress(PermissionError):
                content = path.read_bytes()
        elif stat.S_ISDIR(there.st_mode):
            with suppress(PermissionError):
                found |= seen(*path.iterdir())
        found[path] = Seen(
            stat.S_IFMT(there.st_mode), stat.S_IMODE(there.st_mode), there.st_uid, names, content
        )
    return found


# --- what may be at a path; what links lead to is created beside it


def file(path: Path) -> None:
    path.write_bytes(_CONTENT)


def _read_only(path: Path) -> None:
    file(path)
    path.chmod(0o444)


def _closed(path: Path) -> None:
    file(path)
    path.chmod(0)


def _open_to_all(path: Path) -> None:
    file(path)
    path.chmod(0o777)


def _of_another_user(path: Path) -> None:
    file(path)
    if os.geteuid() == 0:
        os.chown(path, ANOTHER_USER, ANOTHER_USER)


def tree(path: Path) -> None:
    """Create a directory with files as in a home directory and in a search directory."""
    for folder in ("photos-2026/süd-tirol", "1.1-notes", "1.1-0123456789abcdef", ".config-backup"):
        (path / folder).mkdir(parents=True)
        file(path / folder / "MAIN_0123456789abcdef.seg")
    file(path / "two\nlines-of.txt")
    file(path / "2.1-0123456789abcdef")
    file(path / "レジャー-1")


def _link_to_a_file(path: Path) -> None:
    file(_beside(path))
    path.symlink_to(_beside(path))


def _link_to_an_empty_file(path: Path) -> None:
    _beside(path).touch()
    path.symlink_to(_beside(path))


def _link_to_a_directory(path: Path) -> None:
    tree(_beside(path))
    path.symlink_to(_beside(path))


def _link_to_nothing(path: Path) -> None:
    path.symlink_to(_beside(path))


def _hard_link(path: Path) -> None:
    file(_beside(path))
    path.hardlink_to(_beside(path))


def _hard_link_of_an_empty_file(path: Path) -> None:
    _beside(path).touch()
    path.hardlink_to(_beside(path))


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o644)


def _beside(path: Path) -> Path:
    return path.with_name(f"what {path.name} leads to")


KINDS: Final[Mapping[str, Callable[[Path], None]]] = {
    "file": file,
    "read-only-file": _read_only,
    "closed-file": _closed,
    "file-open-to-all": _open_to_all,
    "file-of-another-user": _of_another_user,
    "tree": tree,
    "link-to-a-file": _link_to_a_file,
    "link-to-an-empty-file": _link_to_an_empty_file,
    "link-to-a-directory": _link_to_a_directory,
    "link-to-nothing": _link_to_nothing,
    "hard-link": _hard_link,
    "hard-link-of-an-empty-file": _hard_link_of_an_empty_file,
    "fifo": _fifo,
    "socket": _socket,
}


def put(kind: str, path: Path) -> dict[Path, Seen]:
    """Create something of *kind* at *path*; return its visible properties."""
    KINDS[kind](path)
    beside = _beside(path)
    return seen(path, beside) if os.path.lexists(beside) else seen(path)
