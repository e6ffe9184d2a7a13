"""All processes use a file by one name, and what is beside it is for those who may write to it."""

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

from ledger.database import sqlite_location
from ledger.database.contract import Leadership
from ledger.database.migration import migrate
from ledger.database.own_files import NotOurs
from ledger.errors import Replaced, Unavailable
from ledger.processes.composition import System, compose
from ledger.processes.settings import read_settings
from ledger.projections.search.whoosh.engine import WhooshEngine
from ledger.rules.commands import Create
from tests.builders import carry_out, open_sqlite, open_system, rows
from tests.integration.servers import surroundings, tool
from tests.integration.strangers import ANOTHER_USER

IS_ROOT: Final = os.geteuid() == 0


@pytest.fixture
def path(tmp_path: Path, sqlite_template: Path) -> Path:
    """Return the file of a ledger, alone in its directory."""
    (tmp_path / "ledger").mkdir()
    return Path(shutil.copy(sqlite_template, tmp_path / "ledger" / "ledger.db"))


@pytest.fixture
def ledger(path: Path) -> Iterator[System]:
    """Yield the ledger in the file."""
    with closing(open_sqlite(path)) as system:
        yield system


# --- one name


def test_a_hard_link_is_refused_by_either_name_until_one_is_removed(path: Path) -> None:
    other = path.with_name("other.db")
    other.hardlink_to(path)

    for name in (path, other):
        with closing(open_sqlite(name)) as system, pytest.raises(NotOurs) as refused:
            carry_out(system, Create(type="t"))
        assert str(refused.value).startswith(
            f"cannot use {name}: it is a hard link to a file with 2 names; "
        )
        assert f"find DIRECTORY -samefile {name}" in str(refused.value)
    # SQLite has not come near it.
    assert not [*path.parent.glob("*-wal"), *path.parent.glob("*-shm")]

    other.unlink()
    with closing(open_sqlite(path)) as system:
        assert carry_out(system, Create(type="t"))[0].job_id == 1


def test_a_hard_link_that_takes_the_files_place_is_refused(
    path: Path, sqlite_template: Path
) -> None:
    with closing(open_sqlite(path, check_file_every_s=0.0)) as system:
        carry_out(system, Create(type="t"))
        for each in path.parent.iterdir():
            each.unlink()
        backup = Path(shutil.copy(sqlite_template, path.with_name("backup.db")))
        path.hardlink_to(backup)

        for read_or_write in (lambda: rows(system, "SELECT 1"), lambda: _create(system)):
            with pytest.raises(NotOurs, match="2 names"):
                read_or_write()
        backup.unlink()
        with pytest.raises(Replaced):
            _create(system)
        assert _create(system) == 1


def _create(system: System) -> int:
    return carry_out(system, Create(type="t"))[0].job_id


MOUNTED: Final = """\
mkdir mounted && touch mounted/ledger.db
mount --bind {what} mounted{under} || exit 77
exec {ledger} --database sqlite:///mounted/ledger.db status
"""
# As root; as another user, who is root in a namespace of his own.
NAMESPACES: Final = (("unshare", "-m"), ("unshare", "-rm"))


def status_of_mounted(path: Path, what: Path, under: str) -> "subprocess.CompletedProcess[str]":
    """Return what `ledger status` does with a mount, in a namespace where mounting is allowed."""
    script = MOUNTED.format(what=what, under=under, ledger=tool("ledger"))
    folder = path.parents[1]
    return subprocess.run(
        [*NAMESPACES[not IS_ROOT], "sh", "-c", script],
        cwd=folder,
        env=surroundings(folder),
        capture_output=True,
        text=True,
        check=False,
    )


def can_mount(tmp_path: Path) -> bool:
    command = [*NAMESPACES[not IS_ROOT], "mount", "--bind", str(tmp_path), str(tmp_path)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_file_that_is_mounted_alone_is_refused(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if can_mount(tmp_path):
        status = status_of_mounted(path, path, "/ledger.db")
        refusal, place = status.stderr, tmp_path / "mounted" / "ledger.db"
        assert status.returncode == 3
    else:
        # Here, the list of mounts is what a container's would be.
        lists(monkeypatch, tmp_path, f"52 27 254:0 /x {path} rw - ext4 /dev/vda rw")
        with closing(open_sqlite(path)) as system, pytest.raises(NotOurs) as refused:
            _create(system)
        refusal, place = str(refused.value), path

    assert f"cannot use {place}: the file itself is a mount point; " in refusal
    assert "mount the directory that contains the file, never the file" in refusal


def test_a_directory_that_is_mounted_is_not_refused(path: Path, tmp_path: Path) -> None:
    if can_mount(tmp_path):
        assert status_of_mounted(path, path.parent, "").returncode == 0
    with closing(open_sqlite(path)) as system:
        assert _create(system) == 1


def lists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *lines: str) -> None:
    """Replace the mounts that this process sees: that of the root, then these."""
    listed = tmp_path / "mountinfo"
    listed.write_text("27 1 254:0 / / rw - ext4 /dev/vda rw\n" + "\n".join(lines) + "\n")
    monkeypatch.setattr(sqlite_location, "MOUNTS", listed)


@pytest.mark.parametrize("type_", ["nfs", "nfs4", "cifs", "smb3", "ceph", "fuse.sshfs"])
def test_a_network_file_system_is_refused_unless_the_user_knows_better(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, type_: str
) -> None:
    lists(monkeypatch, tmp_path, f"41 27 0:45 / {path.parent} rw - {type_} host:/jobs rw")

    with closing(open_sqlite(path)) as system, pytest.raises(NotOurs) as refused:
        _create(system)

    assert f"cannot use {path}: it is on a network file system ({type_}); " in str(refused.value)
    assert "LEDGER_ALLOW_NETWORK_FILE=on" in str(refused.value)
    settings = read_settings(
        environment={
            "LEDGER_DATABASE_URL": f"sqlite:///{path}",
            "LEDGER_ALLOW_NETWORK_FILE": "on",
        }
    )
    with closing(compose(settings)) as allowed:
        assert _create(allowed) == 1


@pytest.mark.parametrize("type_", ["ext4", "btrfs", "overlay", "tmpfs", "9p", "virtiofs", "fuse"])
def test_a_file_system_of_one_machine_is_not_refused(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, type_: str
) -> None:
    lists(
        monkeypatch,
        tmp_path,
        # Covered by the mount after it, above it, and beside it.
        f"40 27 0:44 / {path.parent} rw - nfs4 host:/jobs rw",
        f"41 27 0:45 / {path.parent} rw - {type_} device rw",
        f"42 27 0:46 / {path.parents[1]} rw - nfs4 host:/jobs rw",
        f"43 27 0:47 / {path.parent}-far rw - nfs4 host:/jobs rw",
    )

    with closing(open_sqlite(path)) as system:
        assert _create(system) == 1


def test_where_the_mounts_are_not_listed_nothing_is_refused(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_location, "MOUNTS", tmp_path / "missing")

    with closing(open_sqlite(path)) as system:
        assert _create(system) == 1


# --- paths that lead to one file


def test_all_paths_to_a_file_agree_on_its_locks_and_its_index(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link.db").symlink_to(path)
    (tmp_path / "folder").symlink_to(path.parent)
    monkeypatch.chdir(path.parent)
    urls = [
        f"sqlite:///{path}",
        "sqlite:///ledger.db",
        f"sqlite:///{tmp_path}/link.db",
        f"sqlite:///{tmp_path}/folder/../ledger/ledger.db",
    ]
    systems = [open_system(url) for url in urls]

    roles: list[Leadership] = [each.database.leadership("sweeper") for each in systems]
    assert [role.held() for role in roles] == [True, False, False, False]
    assert [_create(each) for each in systems] == [1, 2, 3, 4]
    engines = [each.search.engine for each in systems]
    assert {engine.path for engine in engines if isinstance(engine, WhooshEngine)} == {
        path.with_name("ledger.db-search")
    }
    beside = {each.name for each in path.parent.iterdir()}
    assert {"ledger.db-writer", "ledger.db-sweeper"} <= beside
    assert not list(tmp_path.glob("link.db-*"))
    for role in roles:
        role.release()
    for each in systems:
        each.close()


def test_a_link_that_leads_to_another_file_needs_a_restart(
    path: Path, tmp_path: Path, sqlite_template: Path
) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(path)
    other = Path(shutil.copy(sqlite_template, tmp_path / "other.db"))
    with closing(open_sqlite(link, check_file_every_s=0.0)) as system:
        assert _create(system) == 1
        link.unlink()
        link.symlink_to(other)

        for read_or_write in (lambda: rows(system, "SELECT 1"), lambda: _create(system)):
            with pytest.raises(Unavailable) as refused:
                read_or_write()
            assert str(refused.value) == (
                f"{link} led to {path} and now leads to {other}; restart to use that file"
            )
        link.unlink()
        link.symlink_to(path)
        assert _create(system) == 2


# --- who may use the files


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def _open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_open_umask")
def test_what_is_created_is_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(open_sqlite(path)) as system:
        migrate(system.database)
        carry_out(system, Create(type="t", data='"avi"'))
        system.search.find("avi")
        sweeper = system.database.leadership("sweeper")
        assert sweeper.held()

        made = [each for each in tmp_path.rglob("*") if not each.is_symlink()]
        modes = {each.name: mode(each) for each in made}
        assert {"ledger.db", "ledger.db-wal", "ledger.db-shm", "ledger.db-writer"} <= set(modes)
        assert {"ledger.db-sweeper", "ledger.db-search", "indexer.lock"} <= set(modes)
        folders = {each.name for each in made if each.is_dir()}
        assert {name for name, found in modes.items() if found != 0o600} <= folders
        assert {modes[name] for name in folders} == {0o700}
        sweeper.release()


@pytest.mark.usefixtures("_open_umask")
def test_a_file_is_for_this_user_alone_where_only_root_may_make_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mknod(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "mknod", mknod)
    with closing(open_sqlite(tmp_path / "ledger.db")) as system:
        migrate(system.database)
    assert mode(tmp_path / "ledger.db") == 0o600


@pytest.mark.usefixtures("_open_umask")
@pytest.mark.parametrize(
    ("of_database", "of_log", "of_locks"),
    [(0o600, 0o600, 0o600), (0o660, 0o660, 0o660), (0o644, 0o644, 0o600), (0o666, 0o666, 0o666)],
)
def test_locks_are_for_those_who_may_write_to_the_database(
    ledger: System, path: Path, of_database: int, of_log: int, of_locks: int
) -> None:
    path.chmod(of_database)
    _create(ledger)
    sweeper = ledger.database.leadership("sweeper")
    assert sweeper.held()
    sweeper.release()

    assert {name: mode(path.with_name(f"ledger.db-{name}")) for name in ("wal", "shm")} == {
        "wal": of_log,
        "shm": of_log,
    }
    assert {mode(path.with_name(f"ledger.db-{name}")) for name in ("writer", "sweeper")} == {
        of_locks
    }


@pytest.fixture
def users_path(sqlite_template: Path) -> Iterator[Path]:
    """Yield the file of a ledger of another user, if this one is root, whom he can reach."""
    with TemporaryDirectory() as folder:
        path = Path(shutil.copy(sqlite_template, Path(folder) / "ledger.db"))
        path.chmod(0o640)
        if IS_ROOT:
            os.chown(folder, ANOTHER_USER, ANOTHER_USER)
            os.chown(path, ANOTHER_USER, ANOTHER_USER)
        yield path


@contextmanager
def as_another_user() -> Iterator[None]:
    """Run the block as the owner of the file, if we are root."""
    if not IS_ROOT:
        yield
        return
    os.setegid(ANOTHER_USER)
    os.seteuid(ANOTHER_USER)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def test_what_root_creates_beside_a_users_ledger_is_the_users(users_path: Path) -> None:
    """One command of root made the files that the user's processes could no longer open."""
    with closing(open_system(f"sqlite:///{users_path}")) as system:
        _create(system)
        sweeper = system.database.leadership("sweeper")
        assert sweeper.held()
        sweeper.release()
        beside = {each.name: each.stat().st_uid for each in users_path.parent.iterdir()}
        assert {"ledger.db-wal", "ledger.db-shm", "ledger.db-writer"} <= set(beside)
        assert set(beside.values()) == {users_path.stat().st_uid}

        with as_another_user(), closing(open_system(f"sqlite:///{users_path}")) as users:
            assert _create(users) == 2
            assert users.database.leadership("sweeper").held()


def test_a_lock_file_gets_the_databases_owner_only_if_root_creates_it(
    ledger: System, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[int, int]] = []

    def fchown(_: int, user: int, group: int) -> None:
        given.append((user, group))

    monkeypatch.setattr(os, "fchown", fchown)
    for user in (0, 1):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        role = ledger.database.leadership(f"role-{user}")
        assert role.held()
        role.release()

    there = path.stat()
    assert given == [(there.st_uid, there.st_gid)]


def test_root_makes_no_index_for_a_users_ledger(users_path: Path) -> None:
    """An index is its owner's alone, so the user could not use one that root has made."""
    with closing(open_system(f"sqlite:///{users_path}")) as system:
        carry_out(system, Create(type="t", data='"avi"'))
        if IS_ROOT:
            with pytest.raises(Unavailable) as refused:
                system.search.find("avi")
            assert f"belongs to user {ANOTHER_USER}, not to root; run this" in str(refused.value)
            assert not users_path.with_name("ledger.db-search").exists()

        with as_another_user(), closing(open_system(f"sqlite:///{users_path}")) as users:
            assert list(users.search.find("avi").job_ids) == [1]
