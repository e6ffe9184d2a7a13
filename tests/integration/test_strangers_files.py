"""Nothing is removed, written to or loaded that Ledger did not make, whatever its name."""

import errno
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy.engine import URL

from ledger.database.contract import Leadership
from ledger.database.migration import migrate
from ledger.database.own_files import NotOurs, open_regular
from ledger.database.sqlite_side_files import require_ours
from ledger.errors import LedgerError, Replaced, Unavailable
from ledger.log import store
from ledger.processes.composition import System
from ledger.projections.follower import catch_up
from ledger.projections.rebuild.rebuild import rebuild
from ledger.projections.search.whoosh import own_directory
from ledger.projections.search.whoosh.engine import WhooshEngine
from ledger.projections.search.whoosh.folders import CURRENT, Home
from ledger.rules.commands import Create, Erase, Remove
from tests.builders import carry_out, open_sqlite, open_system, silently, verified
from tests.integration.shell import Shell
from tests.integration.strangers import KINDS, Seen, file, put, seen, tree

each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def path(tmp_path: Path, sqlite_template: Path) -> Path:
    """Return the file of a ledger, alone in its directory."""
    (tmp_path / "ledger").mkdir()
    return Path(shutil.copy(sqlite_template, tmp_path / "ledger" / "ledger.db"))


@pytest.fixture
def ledger(path: Path) -> Iterator[System]:
    """Yield the ledger in the file."""
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
        said.append(str(refused.value).removeprefix(f"cannot use {lock}: "))

    advice = "; move it away: Ledger needs this name for a lock file"
    assert said == [
        f"it is a file of 23 bytes, not a lock file{advice}",
        f"it is a FIFO{advice}",
        f"it is a symbolic link{advice}",
        f"it is a hard link to a file with 2 names{advice}",
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
        # It was killed while the file grew.
        ("shm", (3_007_000).to_bytes(4, sys.byteorder) + b"\1" * 8_188),
        ("shm", (3_007_000).to_bytes(4, sys.byteorder) + b"\1" * 32_764),
        ("journal", b""),
        ("journal", bytes(512)),
        ("journal", bytes.fromhex("d9d505f920a163d7") + bytes(504)),
    ],
)
def test_what_a_crash_leaves_is_sqlites(path: Path, suffix: str, content: bytes) -> None:
    path.with_name(f"ledger.db-{suffix}").write_bytes(content)

    require_ours(path)


def test_opening_the_file_again_leaves_this_process_its_locks(path: Path) -> None:
    """Closing any descriptor of the ``-shm`` would release the locks of the whole process."""
    with closing(sqlite3.connect(path)) as applications:
        applications.execute("PRAGMA journal_mode=WAL")
        applications.execute("SELECT count(*) FROM ledger_events").fetchone()
        for last_job in (1, 2):
            with closing(open_sqlite(path)) as ledger:
                assert carry_out(ledger, Create(type="t"))[0].job_id == last_job

            assert _is_in_use(path.with_name("ledger.db-shm"))
    assert not path.with_name("ledger.db-shm").exists()


def _is_in_use(shm: Path) -> bool:
    """Return whether SQLite in another process would see that a process uses the file.

    It tries this lock first (``unixLockSharedMemory`` in os_unix.c), and truncates the file if
    it gets it, under the feet of whoever has it mapped.
    """
    script = """if True:
        import fcntl, sys
        with open(sys.argv[1], "r+b") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 128)
            except BlockingIOError:
                print("in use")
    """
    command = [sys.executable, "-c", script, str(shm)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout != ""


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
            with pytest.raises(Unavailable, match="restore the database"):
                carry_out(opened, Create(type="t"))
        assert seen(*before) == before
        # What was acknowledged is in the log alone.
        away.replace(path.with_name("copy.db"))
        assert carry_out(opened, Create(type="t"))[0].job_id == 2


def test_a_database_that_another_process_creates_meanwhile_is_opened(
    tmp_path: Path, sqlite_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was empty when we looked, and has its first log when we look beside it."""
    path = tmp_path / "ledger.db"
    path.touch()

    def meanwhile(name: str) -> bytes:
        path.write_bytes(sqlite_template.read_bytes())
        if not name.endswith("-wal"):
            raise FileNotFoundError(name)
        return b"\x37\x7f\x06\x82" + bytes(28)

    monkeypatch.setattr("ledger.database.sqlite_side_files._head", meanwhile)

    require_ours(path)


def test_a_journal_is_kept_whose_database_is_missing(path: Path) -> None:
    journal = path.with_name("ledger.db-journal")
    # It holds pages of a database of seven.
    journal.write_bytes(
        bytes.fromhex("d9d505f920a163d7") + bytes(8) + (7).to_bytes(4, "big") + bytes(492)
    )
    require_ours(path)
    path.unlink()

    with pytest.raises(Unavailable, match="restore the database"):
        require_ours(path)


def test_a_file_that_takes_the_others_place_is_opened_only_if_sqlites_lie_beside_it(
    path: Path, sqlite_template: Path
) -> None:
    with closing(open_sqlite(path, check_file_every_s=0.0)) as ledger:
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
        with pytest.raises(Replaced):
            carry_out(ledger, Create(type="t"))
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

    with closing(open_system(f"sqlite:///{path}")) as opened, pytest.raises(Unavailable):
        carry_out(opened, Create(type="t"))

    assert seen(*before) == before


# --- the search index


def engine_of(system: System) -> WhooshEngine:
    engine = system.search.engine
    assert isinstance(engine, WhooshEngine)
    return engine


def damage(engine: WhooshEngine) -> None:
    for segment in (engine.path / CURRENT).resolve().glob("MAIN_????????????????.seg"):
        # Not the file itself: it is mapped, and would be missing under somebody's feet.
        empty = segment.with_name("empty")
        empty.touch()
        empty.replace(segment)


def use(system: System) -> None:
    """Do all that writes to a search index, and removes files of it."""
    engine = engine_of(system)
    for number in range(20):
        # A commit each, and some that join segments.
        carry_out(system, Create(type="t", data=f'"avi {number}"'))
        assert len(system.search.find("avi").job_ids) == number + 1
    carry_out(system, Erase(job_id=1), Remove(job_id=2))
    rebuild(system.database, [engine, system.activity], silently)
    assert len(system.search.find("avi").job_ids) == 18
    damage(engine)
    reader = WhooshEngine(system.database, engine.path)
    with pytest.raises(Unavailable, match="damaged"):
        reader.reached()
    assert engine.checkpoint() == 0
    catch_up(system.database, engine)
    assert len(system.search.find("avi").job_ids) == 18
    catch_up(system.database, engine.replacement(), through=3)
    engine.drop_replacement()
    assert next(map(str, system.lags())).startswith("up to date")
    assert verified(system).differences == []


def put_all(folder: Path) -> dict[Path, Seen]:
    """Put something of each kind into a directory, under names that look like ours."""
    names = (
        *("photos-2026", "1.1-notes", "1.1-0123456789abcdef", "2.1-0123456789abcdef"),
        *("2.1-0123456789abcde", "2.1-0123456789abcdef\n", "MAIN.tmp", "MAIN_notes.txt"),
        *("_MAIN_notes.toc.bak", "MAIN_0123456789abcdef.segment", "two\nlines", "süd-1"),
    )
    before: dict[Path, Seen] = {}
    for place, kind in enumerate(KINDS):
        before |= put(kind, folder / f"{names[place % len(names)]}{place // len(names) or ''}")
    return before


def test_nothing_is_touched_in_the_directory_of_the_setting(
    database_url: str, tmp_path: Path
) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    tree(directory / "my-project")
    put_all(directory)
    # As in a home directory, where others may read but not write.
    directory.chmod(0o755)
    before = seen(directory)

    system = open_system(database_url, search_directory=directory)
    migrate(system.database)
    use(system)
    system.close()

    (ours,) = set(directory.iterdir()) - set(before)
    shutil.rmtree(ours)
    assert seen(directory) == before


def test_nothing_is_touched_in_the_working_directory(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = open_system(postgres_url)
    name = system.database.engine.url.database
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    # A project that is called like the database.
    tree(Path.cwd() / f"{name}-search")
    put_all(Path.cwd())
    before = seen(Path.cwd())

    system = open_system(postgres_url)
    migrate(system.database)
    use(system)
    system.close()

    (ours,) = set(Path.cwd().iterdir()) - set(before)
    shutil.rmtree(ours)
    assert seen(Path.cwd()) == before


@each_kind
def test_a_strangers_directory_is_no_search_index_and_all_else_works(
    ledger: System, path: Path, kind: str
) -> None:
    home = path.with_name("ledger.db-search")
    before = put(kind, home)
    carry_out(ledger, Create(type="t", data='"avi"'))

    with pytest.raises(NotOurs, match="move it away") as refused:
        ledger.search.find("avi")
    with pytest.raises(NotOurs):
        rebuild(ledger.database, [engine_of(ledger)], silently)
    catch_up(ledger.database, ledger.activity)

    stands = {each.name: each.stopped for each in ledger.lags()}
    assert stands == {"search": str(refused.value), "activity": None}
    lead(ledger.starter)
    assert verified(ledger).differences == []
    assert seen(*before) == before
    shutil.move(home, path.with_name("moved"))
    assert list(ledger.search.find("avi").job_ids) == [1]


def test_what_others_put_into_a_search_index_stays(ledger: System, path: Path) -> None:
    home = path.with_name("ledger.db-search")
    carry_out(ledger, Create(type="t", data='"first"'))
    ledger.search.find("first")
    first = (home / CURRENT).resolve()
    before = put_all(home) | put_all(first)
    # Of another layout, with our marker in the second only: that one is empty, and ours.
    for name, is_ours in (("1.1-aaaaaaaaaaaaaaaa", False), ("1.1-bbbbbbbbbbbbbbbb", True)):
        (home / name).mkdir()
        if is_ours:
            shutil.copy(home / own_directory.MARKER, home / name)
        else:
            before |= seen(home / name)
    carry_out(ledger, Remove(job_id=1))
    ledger.search.find("first")

    rebuild(ledger.database, [engine_of(ledger)], silently)
    with closing(open_system(f"sqlite:///{path}")) as another:
        carry_out(another, Create(type="t", data='"second"'))
        assert list(another.search.find("second").job_ids) == [2]
        damage(engine_of(another))
    with closing(open_system(f"sqlite:///{path}")) as another:
        assert list(another.search.find("second").job_ids) == [2]

    assert seen(*before) == before
    assert not (home / "1.1-bbbbbbbbbbbbbbbb").exists()
    # What was ours in the first index is gone, the rest is theirs.
    assert {each for each in first.iterdir() if each not in before} == set()


# In the search index; tests/soak puts every kind of file there.
A_FEW_KINDS: Final = ("file", "fifo", "link-to-nothing", "tree")
NAMES_IN_THE_HOME: Final = (
    *("current", "current.new", "green", "green.new", "damaged"),
    *("indexer.lock", "links.lock", "starter.lock"),
)


@pytest.mark.parametrize("kind", A_FEW_KINDS)
@pytest.mark.parametrize("name", NAMES_IN_THE_HOME)
@pytest.mark.parametrize("when", ["before", "after"])
def test_nothing_that_has_a_name_of_ours_is_replaced(
    ledger: System, path: Path, kind: str, name: str, when: str
) -> None:
    use_an_index_with(ledger, path, kind=kind, name=name, when=when)


def use_an_index_with(ledger: System, path: Path, *, kind: str, name: str, when: str) -> None:
    """Put a file into the search index before or after its first use; require that it stays."""
    home = path.with_name("ledger.db-search")
    Home(home).lock("indexer")
    carry_out(ledger, Create(type="t", data='"avi"'))
    if when == "after":
        ledger.search.find("avi")
        (home / name).unlink(missing_ok=True)
    before = put(kind, home / name)

    refusals = []
    for _ in range(2):
        with closing(open_system(f"sqlite:///{path}")) as system:
            found = map(refusal, all_that_changes_files(system))
            refusals += [each for each in found if each and "is being rebuilt" not in each]

    assert seen(*before) == before
    assert all(str(home / name) in refusal for refusal in refusals)
    # Who starts the process that indexes may be settled elsewhere.
    assert refusals or name == "starter.lock"


def refusal(act: Callable[[], object]) -> str | None:
    try:
        act()
    except LedgerError as error:
        return str(error)
    return None


def lead(claim: Callable[[], Leadership]) -> None:
    leadership = claim()
    leadership.held()
    leadership.release()


def all_that_changes_files(system: System) -> Iterator[Callable[[], object]]:
    engine = engine_of(system)
    reader = WhooshEngine(system.database, engine.path)
    yield lambda: carry_out(system, Create(type="t", data='"avi"'))
    yield lambda: system.search.find("avi")
    yield lambda: lead(engine.leadership)
    yield lambda: rebuild(system.database, [engine], silently)
    yield lambda: catch_up(system.database, engine.replacement(), through=1)
    yield engine.drop_replacement
    yield lambda: damage(engine)
    yield reader.reached
    yield engine.checkpoint
    yield system.lags
    yield lambda: lead(system.starter)


def test_a_directory_that_is_empty_is_adopted(ledger: System, path: Path) -> None:
    home = path.with_name("ledger.db-search")
    home.mkdir(mode=0o755)
    carry_out(ledger, Create(type="t", data='"avi"'))
    assert [each.stopped for each in ledger.lags()] == [None, None]
    assert list(home.iterdir()) == []

    assert list(ledger.search.find("avi").job_ids) == [1]


def test_the_marker_is_that_of_every_earlier_release(path: Path) -> None:
    home = Home(path.with_name("home"))
    home.lock("indexer")

    # Written out: with another text, directories of earlier releases would be refused.
    assert (home.path / own_directory.MARKER).read_text() == (
        "Signature: 8a477f597d28d172789f06886806bc55\n"
        "# Ledger (ledger-queue) made this directory for a search index, and removes its files.\n"
        "# It can be deleted at any time: the index is built anew from the ledger.\n"
        "# What such a file is for: https://bford.info/cachedir/\n"
    )


@pytest.mark.parametrize("length", [0, 1, 43, 100])
def test_a_marker_that_a_crash_has_cut_short_is_finished(path: Path, length: int) -> None:
    other, home = Home(path.with_name("other")), Home(path.with_name("home"))
    other.lock("indexer")
    whole = (other.path / own_directory.MARKER).read_bytes()
    home.path.mkdir(mode=0o700)
    (home.path / own_directory.MARKER).write_bytes(whole[:length])

    assert home.find(CURRENT) is None
    assert (home.path / own_directory.MARKER).read_bytes() == whole[:length]
    home.begin(CURRENT)
    assert (home.path / own_directory.MARKER).read_bytes() == whole


@pytest.mark.parametrize(
    "content",
    [
        b"Signature: 8a477f597d28d172789f06886806bc55\n# This is cargo's.\n",
        b"\n",
        b"Signature: 8a477f597d28d172789f06886806bc55\n" * 99,
    ],
)
def test_the_marker_of_another_program_is_not_ours(path: Path, content: bytes) -> None:
    home = Home(path.with_name("home"))
    home.path.mkdir(mode=0o700)
    marker = home.path / own_directory.MARKER
    marker.write_bytes(content)

    for act in (lambda: home.find(CURRENT), lambda: home.begin(CURRENT), home.is_damaged):
        with pytest.raises(NotOurs, match=r"such as CACHEDIR\.TAG; "):
            act()

    assert marker.read_bytes() == content
    assert list(home.path.iterdir()) == [marker]


def test_two_processes_that_make_a_directory_at_once_both_have_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, other = Home(path.with_name("home")), Home(path.with_name("home"))
    original = own_directory.names
    home.path.mkdir(mode=0o700)

    def while_another_makes_it(directory: int) -> list[str]:
        monkeypatch.setattr(own_directory, "names", original)
        other.begin(CURRENT)
        return original(directory)

    # It has seen no marker, and sees what the other one makes next.
    monkeypatch.setattr(own_directory, "names", while_another_makes_it)
    home.lock("indexer")

    assert home.find(CURRENT) == other.find(CURRENT) is not None


@pytest.mark.parametrize("fails", ["own_directory.mark", "Index.create", "os.symlink"])
def test_a_disk_that_is_full_is_not_filled_with_begun_indexes(
    path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    home = Home(path.with_name("home"))
    home.lock("links")
    before = seen(home.path)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(f"ledger.projections.search.whoosh.folders.{fails}", fail)
        for _ in range(2):
            with pytest.raises(Unavailable, match="No space left on device"):
                home.begin(CURRENT)

    (home.path / "links.lock").unlink()
    assert seen(home.path) == before
    assert home.find(CURRENT) is None
    assert home.begin(CURRENT) == home.find(CURRENT)


@pytest.mark.parametrize("number", [1, 2])
def test_a_disk_that_is_full_is_not_filled_with_begun_files(
    ledger: System, path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    carry_out(ledger, Create(type="t", data='"avi"'))
    ledger.search.find("avi")
    carry_out(ledger, Create(type="t", data='"avi"'))
    home = path.with_name("ledger.db-search")
    before = seen(*(home / CURRENT).resolve().iterdir())
    calls = []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        # The first is of the segment, the second of the table of contents.
        if len(calls) % number == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", fsync)
        for _ in range(2):
            with pytest.raises(Unavailable, match="No space left on device"):
                catch_up(ledger.database, engine_of(ledger))

    after = seen(*(home / CURRENT).resolve().iterdir())
    begun = {each for each in after.keys() - before.keys() if each.suffix != ".seg"}
    assert begun == set()
    # A try first removes the segment of the one before.
    assert len(after) - len(before) == (0 if number == 1 else 1)
    assert list(ledger.search.find("avi").job_ids) == [2, 1]
    # A whole segment that no table of contents names goes with the next commit.
    assert len(list((home / CURRENT).resolve().glob("*.seg"))) == 2


def test_two_readers_that_tell_of_damage_at_once_are_both_heard(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, other = Home(path.with_name("home")), Home(path.with_name("home"))
    home.begin(CURRENT)

    def second(name: str, flags: int, *, directory: int) -> int:
        monkeypatch.undo()
        other.tell_damage()
        return open_regular(name, flags, directory=directory)

    monkeypatch.setattr("ledger.projections.search.whoosh.folders.open_regular", second)
    home.tell_damage()

    assert home.is_damaged()
    home.forget_damage()
    assert not other.is_damaged()


def test_status_tells_of_an_index_of_the_ledger_that_was_at_the_path_before(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    shell = Shell(url, tmp_path / "search")
    with closing(open_system(url, search_directory=tmp_path / "search")) as system:
        migrate(system.database)
        carry_out(system, Create(type="t", data='"avi"'))
        system.search.find("avi")
        with system.database.read() as connection:
            chain = store.read_head(connection).chain.hex()
    for each in tmp_path.glob("ledger.db*"):
        each.unlink()
    with closing(open_system(url, search_directory=tmp_path / "search")) as system:
        migrate(system.database)
        carry_out(system, Create(type="t", data='"film"'))
        before = shell.json("status")["projections"]["search"]
        assert list(system.search.find("film").job_ids) == [1]

    assert re.match(
        rf"stopped: the search index in \S+ is of another ledger, .* event 1 has the chain value "
        rf"{chain}; ",
        before,
    )
    assert shell.json("status")["projections"]["search"] == "up to date, at position 1"


def test_two_ledgers_with_one_setting_have_an_index_each(tmp_path: Path, postgres_url: str) -> None:
    (tmp_path / "a").mkdir()
    systems = [
        open_system(url, search_directory=tmp_path / "search")
        for url in (
            f"sqlite:///{tmp_path}/ledger.db",
            f"sqlite:///{tmp_path}/a/ledger.db",
            postgres_url,
            "postgresql://one/ledger",
            "postgresql://two/ledger",
            "postgresql://two:5433/ledger",
            "postgresql:///ledger?host=/run/one",
            "postgresql:///ledger?host=/run/two",
        )
    ]
    assert len({engine_of(system).path for system in systems}) == len(systems)
    for number, system in enumerate(systems[:3]):
        migrate(system.database)
        carry_out(system, Create(type="t", data=f'"avi{number}"'))
        assert list(system.search.find(f"avi{number}").job_ids) == [1]
    for number, system in enumerate(systems[:3]):
        assert list(system.search.find(f"avi{number}").job_ids) == [1]
        assert str(system.lags()[0]) == "up to date, at position 1"
    for system in systems:
        system.close()


def test_a_ledger_has_one_index_however_its_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    (tmp_path / "link.db").symlink_to(path)
    (tmp_path / "folder").symlink_to(tmp_path)

    def place(url: str) -> Path:
        with closing(open_system(url, search_directory=tmp_path / "search")) as system:
            return engine_of(system).path

    assert place(f"sqlite:///{path}") == place(f"sqlite:///{tmp_path}/folder/ledger.db")
    assert place(f"sqlite:///{path}") == place(f"sqlite:///{tmp_path}/link.db")
    assert place("postgresql://ann:pw@h/job") == place("postgres://bob@h/job?sslmode=require")


@pytest.mark.parametrize(
    ("database", "begins"),
    [
        ("job", "job-search-"),
        ("../../etc", ".._.._etc-search-"),
        ("..", "..-search-"),
        ("a b\nc", "a_b_c-search-"),
        ("süd", "s_d-search-"),
        ("x" * 500, "x" * 64 + "-search-"),
    ],
)
def test_the_name_of_a_database_leads_nowhere_else(
    tmp_path: Path, database: str, begins: str
) -> None:
    url = URL.create("postgresql", host="h", database=database)
    text = url.render_as_string(hide_password=False)
    with closing(open_system(text, search_directory=tmp_path)) as system:
        home = engine_of(system).path

    assert home.parent == tmp_path
    assert re.fullmatch(re.escape(begins) + "[0-9a-f]{16}", home.name)
    assert len(home.name) < 100
