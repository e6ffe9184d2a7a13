"""Nothing is removed, written to or loaded that Ledger did not make, whatever its name."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ledger.commands import Create
from ledger.composition import System
from ledger.errors import Unavailable
from ledger.own_files import NotOurs
from ledger.sqlite_side_files import require_ours
from tests.builders import carry_out, open_system
from tests.integration.strangers import KINDS, file, put, seen

each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def path(tmp_path: Path, sqlite_template: Path) -> Path:
    """Return the file of a ledger, alone in its directory."""
    (tmp_path / "ledger").mkdir()
    return Path(shutil.copy(sqlite_template, tmp_path / "ledger" / "ledger.db"))


@pytest.fixture
def ledger(path: Path) -> Iterator[System]:
    """Give the ledger in the file."""
    with closing(open_system(f"sqlite:///{path}")) as system:
        yield system


# --- the files on which processes queue


@each_kind
@pytest.mark.parametrize("role", ["sweeper", "rebuild", "followers-starter", "follower-activity"])
def test_a_role_is_not_taken_on_a_strangers_file(
    ledger: System, path: Path, kind: str, role: str
) -> None:
    lock = path.with_name(f"ledger.db-{role}")
    before = put(kind, lock)

    with pytest.raises(Unavailable) as refused:
        ledger.database.leadership(role).held()

    assert str(lock) in str(refused.value)
    assert seen(*before) == before


@each_kind
def test_nobody_queues_on_a_strangers_file(ledger: System, path: Path, kind: str) -> None:
    lock = path.with_name("ledger.db-writer")
    before = put(kind, lock)

    with pytest.raises(Unavailable) as refused:
        carry_out(ledger, Create(type="t"))

    assert str(lock) in str(refused.value)
    assert seen(*before) == before
    # With it out of the way, all goes on.
    shutil.move(lock, path.with_name("moved"))
    assert carry_out(ledger, Create(type="t"))[0].job_id == 1


def test_a_refusal_says_what_was_found_and_what_to_do(ledger: System, path: Path) -> None:
    said = []
    for kind in ("file", "fifo", "link-to-nothing", "hard-link"):
        lock = path.with_name(f"ledger.db-{kind}")
        put(kind, lock)
        with pytest.raises(NotOurs) as refused:
            ledger.database.leadership(kind).held()
        said.append(str(refused.value).removeprefix(str(lock)))

    advice = "; move it away: processes queue on this file"
    assert said == [
        f" is not Ledger's: it is a file of 23 bytes, and no lock{advice}",
        f" is not Ledger's: it is a FIFO{advice}",
        f" is not Ledger's: it is a symbolic link{advice}",
        f" is not Ledger's: it is a hard link, one of 2 names of a file{advice}",
    ]


@pytest.mark.parametrize("content", [b"", b"\n"])
def test_an_empty_file_and_one_that_was_touched_are_locks(
    ledger: System, path: Path, content: bytes
) -> None:
    path.with_name("ledger.db-writer").write_bytes(content)

    assert carry_out(ledger, Create(type="t"))[0].job_id == 1


# --- the files beside the database, which SQLite overwrites and deletes


@each_kind
@pytest.mark.parametrize("suffix", ["wal", "shm", "journal"])
@pytest.mark.parametrize("state", ["there", "empty", "missing"])
def test_sqlite_is_not_let_near_a_strangers_file(
    ledger: System, path: Path, kind: str, suffix: str, state: str
) -> None:
    if state == "empty":
        path.write_bytes(b"")
    elif state == "missing":
        path.unlink()
    beside = path.with_name(f"ledger.db-{suffix}")
    before = put(kind, beside)

    for _ in range(2):
        with pytest.raises(Unavailable) as refused:
            carry_out(ledger, Create(type="t"))
        assert str(beside) in str(refused.value)

    assert seen(*before) == before
    assert path.exists() is (state != "missing")


def test_the_files_of_a_running_ledger_are_sqlites(ledger: System, path: Path) -> None:
    carry_out(ledger, Create(type="t"))
    beside = {each.name for each in path.parent.iterdir()}
    assert {"ledger.db-wal", "ledger.db-shm"} <= beside

    with closing(open_system(f"sqlite:///{path}")) as another:
        assert carry_out(another, Create(type="t"))[0].job_id == 2


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        ("wal", b""),
        ("wal", bytes(4_096)),
        ("wal", bytes.fromhex("377f0682") + bytes(28)),
        ("wal", bytes.fromhex("377f0683") + bytes(28)),
        ("shm", b""),
        ("shm", bytes(32_768)),
        # The first to open it leaves three bytes.
        ("shm", (3_007_000).to_bytes(4, sys.byteorder)[:3]),
        ("shm", (3_007_000).to_bytes(4, sys.byteorder) + b"\1" * 32_764),
        ("journal", b""),
        ("journal", bytes(512)),
        ("journal", bytes.fromhex("d9d505f920a163d7") + bytes(504)),
    ],
)
def test_what_a_crash_leaves_is_sqlites(path: Path, suffix: str, content: bytes) -> None:
    path.with_name(f"ledger.db-{suffix}").write_bytes(content)

    require_ours(path)


def test_a_log_is_kept_whose_database_is_missing(ledger: System, path: Path) -> None:
    carry_out(ledger, Create(type="t"))
    wal = path.with_name("ledger.db-wal")
    shutil.copy(path, path.with_name("copy.db"))
    shutil.copy(wal, path.with_name("copy.db-wal"))
    away = path.with_name("copy.db").rename(path.with_name("away"))
    before = seen(path.with_name("copy.db-wal"))

    with closing(open_system(f"sqlite:///{path.with_name('copy.db')}")) as opened:
        for content in (None, b""):
            if content is not None:
                path.with_name("copy.db").write_bytes(content)
            with pytest.raises(Unavailable, match="put that file back"):
                carry_out(opened, Create(type="t"))
        assert seen(*before) == before
        # What was acknowledged is in the log alone.
        away.replace(path.with_name("copy.db"))
        assert carry_out(opened, Create(type="t"))[0].job_id == 2


def test_a_journal_is_kept_whose_database_is_missing(path: Path) -> None:
    journal = path.with_name("ledger.db-journal")
    # It holds pages of a database of seven.
    journal.write_bytes(
        bytes.fromhex("d9d505f920a163d7") + bytes(8) + (7).to_bytes(4, "big") + bytes(492)
    )
    require_ours(path)
    path.unlink()

    with pytest.raises(Unavailable, match="put that file back"):
        require_ours(path)


def test_a_file_that_takes_the_others_place_is_opened_only_if_sqlites_lie_beside_it(
    ledger: System, path: Path, sqlite_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.sqlite.HEED_S", 0.0)
    carry_out(ledger, Create(type="t"))
    for each in path.parent.glob("ledger.db*"):
        each.unlink()
    wal = path.with_name("ledger.db-wal")
    file(wal)
    before = seen(wal)
    Path(shutil.copy(sqlite_template, path.with_name("new"))).replace(path)

    for _ in range(2):
        with pytest.raises(NotOurs):
            carry_out(ledger, Create(type="t"))
    assert seen(wal) == before
    wal.unlink()
    assert carry_out(ledger, Create(type="t"))[0].job_id == 1


def test_a_link_to_the_database_has_sqlites_files_beside_what_it_leads_to(
    path: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(path)
    file(tmp_path / "link.db-wal")
    file(path.with_name("ledger.db-wal"))
    before = seen(tmp_path / "link.db-wal", path.with_name("ledger.db-wal"))

    with pytest.raises(NotOurs, match=f"{path}-wal"):
        require_ours(link)

    path.with_name("ledger.db-wal").rename(path.with_name("moved"))
    with closing(open_system(f"sqlite:///{link}")) as opened:
        carry_out(opened, Create(type="t"))
    assert list(seen(tmp_path / "link.db-wal").values()) == list(before.values())[:1]


@pytest.mark.parametrize("kind", ["tree", "fifo"])
def test_a_ledger_is_kept_in_a_file_and_nothing_else(path: Path, kind: str) -> None:
    path.unlink()
    before = put(kind, path)

    with closing(open_system(f"sqlite:///{path}")) as opened, pytest.raises(NotOurs):
        carry_out(opened, Create(type="t"))

    assert seen(*before) == before
