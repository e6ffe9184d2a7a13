"""The search index loses nothing and doubles nothing, whatever is killed, damaged or replaced."""

import gc
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Any, Final

import pytest
from sqlalchemy import Connection, text

from ledger.database.contract import Database
from ledger.database.file_lock import LockFile
from ledger.database.migration import migrate
from ledger.errors import InvalidInput, Overtaken, Replaced, Unavailable
from ledger.log import store
from ledger.log.recorded import Change
from ledger.processes.composition import System, compose, queue_of
from ledger.processes.settings import Settings
from ledger.projections.follower import catch_up
from ledger.projections.lag import lags
from ledger.projections.rebuild.rebuild import rebuild
from ledger.projections.search import sql_words
from ledger.projections.search.engine import Behind, Damaged, Update, update_of
from ledger.projections.search.search import LONGEST_QUERY, Search
from ledger.projections.search.sql_engine import SqlEngine
from ledger.projections.search.whoosh.engine import WhooshEngine
from ledger.projections.search.whoosh.index import FACTOR, LARGEST_JOINED, Index, to_join
from ledger.projections.search.whoosh.table_of_contents import Segment
from ledger.projections.search.words import VERSION as WORDS_VERSION
from ledger.rules.commands import Command, Create, Erase, Remove
from tests.builders import carry_out, open_system, rows, silently, tamper
from tests.integration.servers import DEADLINE_S, wait_until

# A commit removes what another left: at the latest the second, should the first be killed
# before it has come to that.
LASTING: Final = 3


def create(system: System, *texts: str) -> list[int]:
    created = carry_out(system, *(Create(type="t", data=f'"{text}"') for text in texts))
    return [outcome.job_id for outcome in created]


def head(system: System) -> store.Head:
    with system.database.read() as connection:
        return store.read_head(connection)


def found(system: System, query: str) -> list[int]:
    return list(system.search.find(query).job_ids)


@pytest.fixture
def folder(system: System) -> Path:
    """Return where the system's index lies."""
    engine = system.search.engine
    assert isinstance(engine, WhooshEngine)
    # Only who is told to makes the directory above.
    engine.path.parent.mkdir(exist_ok=True)
    return engine.path


@pytest.fixture
def engine(system: System, folder: Path) -> WhooshEngine:
    """Return a second engine on the system's index, as another process has."""
    return WhooshEngine(system.database, folder)


# --- exactly once


class Load:
    """Write to a ledger, and know which jobs must be found at each position."""

    def __init__(self, system: System, random_: random.Random) -> None:
        self._system = system
        self._random = random_
        self._live: set[int] = set()
        # What changes at a position: a job is to be found from now on, or no more.
        self._changes: list[tuple[int, int, bool]] = []
        # Their data is gone at once, also for who comes by their creation later.
        self.erased: set[int] = set()

    def write(self) -> None:
        """Write a batch."""
        commands: list[Command] = [
            Create(type="t", data=f'"w{self._random.randrange(50)} all"')
            for _ in range(self._random.randrange(1, 40))
        ]
        gone = self._random.sample(sorted(self._live), min(len(self._live), 8))
        commands += [
            Erase(job_id=job_id) if self._random.random() < 0.3 else Remove(job_id=job_id)
            for job_id in gone
        ]
        head = self._position()
        self._system.ledger.submit(commands, actor="load")
        with self._system.database.read() as connection:
            for event in store.read_after(connection, after=head, limit=1000):
                created = event.kind == "created"
                if event.kind == "erased":
                    self.erased.add(event.job_id)
                self._changes.append((event.position, event.job_id, created))
                (self._live.add if created else self._live.discard)(event.job_id)

    def expected(self, position: int) -> set[int]:
        """Return the jobs that an index at *position* must have."""
        jobs: set[int] = set()
        for at, job_id, created in self._changes:
            if at <= position:
                (jobs.add if created else jobs.discard)(job_id)
        return jobs

    def close(self) -> None:
        self._system.close()

    def _position(self) -> int:
        with self._system.database.read() as connection:
            return store.read_position(connection)


def indexed(folder: Path) -> tuple[int, Counter[int]]:
    """Return an index's position, and how often it has each job."""
    contents = Index((folder / "current").resolve()).contents()
    jobs: Counter[int] = Counter()
    for segment, file in zip(contents.segments, contents.files, strict=True):
        jobs.update(
            job_id for number, job_id in enumerate(file.job_ids) if not segment.is_deleted(number)
        )
    return contents.checkpoint.position, jobs


def test_a_search_that_waited_leaves_no_segment_open(system: System) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    gc.disable()
    try:
        # Each search finds the index behind, and each commit begins a segment of its own.
        for _ in range(3):
            create(system, "video")
            found(system, "video")
        before = descriptors()
        for _ in range(20):
            create(system, "video")
            found(system, "video")
        # Fewer segments than FACTOR are in the index at any time, and in what was read before.
        assert descriptors() < before + 2 * FACTOR
    finally:
        gc.enable()


def test_a_killed_indexer_has_indexed_each_event_once(
    database_url: str, system: System, folder: Path
) -> None:
    kill_indexers(database_url, system, folder, kills=6)


def kill_indexers(database_url: str, system: System, folder: Path, *, kills: int) -> int:
    """Kill an indexer again and again in the middle of its work; tests/soak kills more.

    Return how many died within a commit, of which files are left.
    """
    random_ = random.Random(50)
    load = Load(open_system(database_url), random_)
    orphans: list[set[str]] = []
    engine = WhooshEngine(system.database, folder)
    script = Path(__file__).with_name("killed_indexer.py")
    last = 0
    with subprocess.Popen(
        [sys.executable, str(script), database_url, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        for _ in range(kills):
            parent.stdin.write(f"{random_.choice((7, 2_000))}\n")
            parent.stdin.flush()
            child = int(parent.stdout.readline())
            # A moment of its work, and not before it.
            deadline_s = time.monotonic() + DEADLINE_S
            while _position(folder) <= last and time.monotonic() < deadline_s:
                load.write()
            end_s = time.monotonic() + random_.uniform(0, 0.1)
            while time.monotonic() < end_s:
                load.write()
            os.kill(child, signal.SIGKILL)
            wait_until(lambda: not _exists(child), "the killed one is gone")  # noqa: B023 - at once
            _assert_no_lock_is_held(engine, folder)
            position, jobs = indexed(folder)
            expected = load.expected(position)
            assert expected - load.erased <= set(jobs) <= expected
            assert max(jobs.values(), default=1) == 1
            assert position > last
            orphans.append(_orphans(folder))
            last = position
        parent.stdin.close()

    # What those left that died within a commit did not pile up.
    assert not any(map(set.intersection, orphans, orphans[LASTING:]))
    head = system.search.find("all", limit=1_000_000).job_ids
    position, jobs = indexed(folder)
    assert set(head) == load.expected(position) == set(jobs)
    assert max(jobs.values()) == 1
    _assert_no_orphans(folder)
    load.close()
    return sum(map(bool, orphans))


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _position(folder: Path) -> int:
    """Return how far an index is that another process writes."""
    try:
        return indexed(folder)[0]
    except Damaged:
        # Not there yet.
        return 0


def _assert_no_lock_is_held(engine: WhooshEngine, folder: Path) -> None:
    leadership = engine.leadership()
    assert leadership.held()
    leadership.release()
    for path in (*folder.glob("*.lock"), *folder.glob("*/*LOCK")):
        lock = LockFile(path)
        assert lock.try_acquire(), path
        lock.close()


def _orphans(folder: Path) -> set[str]:
    """Return what lies in the index's directory and is no part of it."""
    index = (folder / "current").resolve()
    contents = Index(index).contents()
    parts = {segment.file_name for segment in contents.segments}
    parts |= {"CACHEDIR.TAG", "MAIN_WRITELOCK", f"_MAIN_{contents.generation}.toc"}
    names = {path.name for path in index.iterdir()}
    assert parts - {"MAIN_WRITELOCK"} <= names
    return names - parts


def _assert_no_orphans(folder: Path) -> None:
    index = (folder / "current").resolve()
    assert _orphans(folder) == set()
    assert {path.name for path in folder.iterdir()} == {
        *("CACHEDIR.TAG", "current", "indexer.lock", "links.lock"),
        index.name,
    }


# --- what befalls the directory


def _truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def _zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [_truncate, _zero, _empty, Path.unlink, _flip])
@pytest.mark.parametrize("pattern", ["*.seg", "*.toc"])
def test_a_damaged_index_is_built_anew_and_says_so(
    system: System,
    folder: Path,
    engine: WhooshEngine,
    damage: Callable[[Path], None],
    pattern: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    jobs = create(system, "avi video", "video")
    catch_up(system.database, engine)
    (path,) = (folder / "current").resolve().glob(pattern)
    damage(path)
    reader = Search(
        system.database, WhooshEngine(system.database, folder), wait_ms=0, indexes=False
    )

    with pytest.raises(Unavailable):
        reader.find("video")
    with caplog.at_level(logging.WARNING):
        catch_up(system.database, WhooshEngine(system.database, folder))

    assert "rebuilding the search index from the ledger" in caplog.text
    assert list(reader.find("video").job_ids) == jobs[::-1]
    assert not (folder / "damaged").exists()


def test_who_indexes_hears_of_damage_from_a_reader(
    system: System, folder: Path, engine: WhooshEngine
) -> None:
    jobs = create(system, "avi video", "video")
    catch_up(system.database, engine)
    next((folder / "current").resolve().glob("*.seg")).unlink()

    # Who indexes has the file open, and would not notice.
    assert found(system, "video") == jobs[::-1]
    catch_up(system.database, engine)
    assert found(system, "video") == jobs[::-1]


@pytest.mark.parametrize("what", ["all", "index", "link"])
def test_a_missing_index_is_built_anew(
    system: System, folder: Path, engine: WhooshEngine, what: str
) -> None:
    jobs = create(system, "avi video", "video")
    catch_up(system.database, engine)
    if what == "all":
        shutil.rmtree(folder)
    elif what == "index":
        shutil.rmtree((folder / "current").resolve())
    else:
        (folder / "current").unlink()

    assert found(system, "video") == jobs[::-1]


def test_damage_is_told_of_once_however_many_look(
    system: System, folder: Path, engine: WhooshEngine, caplog: pytest.LogCaptureFixture
) -> None:
    create(system, "avi")
    catch_up(system.database, engine)
    (segment,) = folder.glob("current/*.seg")
    segment.write_bytes(b"")

    for _ in range(3):
        with pytest.raises(Unavailable):
            WhooshEngine(system.database, folder).search(
                ["avi"], head=head(system), limit=1, offset=0
            )

    assert caplog.text.count("cannot be read") == 1


def test_the_index_of_another_ledger_is_not_read(tmp_path: Path) -> None:
    systems = []
    for name, texts in (("one", ("avi", "avi", "avi")), ("two", ("video", "film"))):
        # As if one had been moved to where the other was.
        system = open_system(f"sqlite:///{tmp_path / name}.db")
        engine = WhooshEngine(system.database, tmp_path / "search")
        system = replace(system, make_search=partial(Search, system.database, engine, wait_ms=0))
        migrate(system.database)
        create(system, *texts)
        systems.append(system)
    one, two = systems

    assert found(one, "avi") == [3, 2, 1]
    assert found(two, "avi") == []
    assert found(two, "video") == [1]
    # As long, but not the same.
    create(two, "more")
    assert found(one, "avi") == [3, 2, 1]
    assert found(one, "more") == []
    for system in systems:
        system.close()


def test_an_open_index_is_not_read_for_a_ledger_that_was_restored_from_a_backup(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger.db"
    backup = tmp_path / "backup.db"
    system = open_system(f"sqlite:///{path}")
    migrate(system.database)
    create(system, "avi")
    system.database.close()
    shutil.copy(path, backup)
    create(system, "avi", "avi")
    assert found(system, "avi") == [3, 2, 1]
    system.database.close()
    shutil.copy(backup, path)

    assert found(system, "avi") == [1]
    with pytest.raises(Replaced):
        create(system, "film")
    create(system, "film")
    assert (found(system, "avi"), found(system, "film")) == ([1], [2])
    system.close()


def test_an_open_index_is_not_read_for_another_history_of_the_same_length(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    backup = tmp_path / "backup.db"
    system = open_system(f"sqlite:///{path}")
    migrate(system.database)
    create(system, "avi")
    system.database.close()
    shutil.copy(path, backup)
    create(system, "avi", "avi")
    assert found(system, "avi") == [3, 2, 1]
    system.database.close()
    shutil.copy(backup, path)
    with pytest.raises(Replaced):
        create(system, "film", "film")
    create(system, "film", "film")

    assert (found(system, "avi"), found(system, "film")) == ([1], [3, 2])
    system.close()


def test_who_looks_how_far_an_index_is_leaves_it_alone(
    system: System, folder: Path, engine: WhooshEngine, tmp_path: Path
) -> None:
    other = open_system(f"sqlite:///{tmp_path / 'other.db'}")
    others = WhooshEngine(other.database, folder)
    migrate(other.database)
    stands = [str(each) for each in lags(system.database, [engine], ())]
    assert not folder.exists()
    create(system, "avi")
    assert found(system, "avi") == [1]
    before = sorted(folder.rglob("*"))

    stands += [str(each) for each in lags(other.database, [others], ())]
    assert sorted(folder.rglob("*")) == before
    stands += [str(each) for each in lags(system.database, [engine], ())]
    (segment,) = (folder / "current").resolve().glob("*.seg")
    segment.write_bytes(b"")
    looks = WhooshEngine(system.database, folder)
    stands += [str(each) for each in lags(system.database, [looks], ())]

    damaged = "the search index is damaged and is being rebuilt from the ledger"
    anothers = (
        f"the search index in {folder} is of another ledger, or of another copy of this one, whose "
        f"event 1 has the chain value {head(system).chain.hex()}; the next process that follows, "
        "or a search, builds it again from this ledger; if both are in use, give each its own "
        "LEDGER_SEARCH_DIRECTORY"
    )
    assert stands == [
        "up to date, at position 0",
        f"stopped: {anothers}",
        "up to date, at position 1",
        f"stopped: {damaged}: {segment} is empty",
    ]
    other.close()


def test_nobody_else_may_enter_the_directory(system: System, folder: Path) -> None:
    create(system, "avi")
    found(system, "avi")

    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "current").resolve().stat().st_mode & 0o777 == 0o700


def test_a_rebuild_beside_the_index_takes_its_place_in_one_step(
    system: System, folder: Path, engine: WhooshEngine
) -> None:
    first, _ = create(system, "avi video", "video")
    catch_up(system.database, engine)
    carry_out(system, Remove(job_id=first))
    replacement = engine.replacement()
    assert engine.replacement_checkpoint() is None
    catch_up(system.database, replacement, through=1)
    assert engine.replacement_checkpoint() == 1
    assert found(system, "video") == [2]
    catch_up(system.database, engine.replacement())
    engine.swap()

    assert found(system, "video") == [2]
    assert engine.replacement_checkpoint() is None
    _assert_no_orphans(folder)


@pytest.mark.parametrize("call", ["commit", "contents"])
def test_a_rebuild_takes_the_place_of_an_index_that_is_written(
    system: System,
    folder: Path,
    engine: WhooshEngine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    call: str,
) -> None:
    create(system, "avi")
    catch_up(system.database, engine)
    create(system, "avi")
    original = getattr(Index, call)

    def swapped(index: Index, *args: Any, **named: Any) -> Any:
        monkeypatch.setattr(Index, call, original)
        other = WhooshEngine(system.database, folder)
        catch_up(system.database, other.replacement())
        other.swap()
        return original(index, *args, **named)

    monkeypatch.setattr(Index, call, swapped)
    # It is no event's fault, for which one would wait ten seconds.
    with suppress(Unavailable, Overtaken):
        catch_up(system.database, engine)

    assert catch_up(system.database, engine) == 2
    assert found(system, "avi") == [2, 1]
    assert "rebuilding the search index" not in caplog.text


def test_no_event_is_missing_from_an_index_that_was_swapped_in_meanwhile(
    system: System, folder: Path, engine: WhooshEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(system, "avi")
    other = WhooshEngine(system.database, folder)
    catch_up(system.database, other.replacement())
    create(system, "avi")
    catch_up(system.database, engine)
    create(system, "avi")

    def swapping(changes: Sequence[Change]) -> Update:
        # Words are cut for as long as a swap takes.
        other.swap()
        monkeypatch.undo()
        return update_of(changes)

    monkeypatch.setattr("ledger.projections.search.whoosh.engine.update_of", swapping)
    with pytest.raises(Overtaken):
        catch_up(system.database, engine)

    assert catch_up(system.database, engine) == 3
    assert found(system, "avi") == [3, 2, 1]


def test_a_search_that_indexes_while_a_rebuild_swaps_finds_all_the_same(
    system: System, folder: Path, engine: WhooshEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(system, "avi")
    catch_up(system.database, engine)
    original = Index.commit

    def swapped(index: Index, *args: Any, **named: Any) -> None:
        monkeypatch.setattr(Index, "commit", original)
        catch_up(system.database, engine.replacement(), through=1)
        engine.swap()
        original(index, *args, **named)

    create(system, "avi")
    monkeypatch.setattr(Index, "commit", swapped)

    assert found(system, "avi") == [2, 1]


def test_what_others_may_do_with_the_words_stays_over_a_rebuild(
    postgres_url: str, folder: Path
) -> None:
    system = open_system(postgres_url, search_directory=folder)
    migrate(system.database)
    engine = SqlEngine(system.database)
    tamper(system, "GRANT SELECT ON ledger_search_words TO PUBLIC")
    rebuild(system.database, [engine], silently)
    query = """
        SELECT privilege_type AS may
        FROM information_schema.role_table_grants
        WHERE table_name = 'ledger_search_words' AND grantee = 'PUBLIC'
    """
    assert rows(system, query) == [{"may": "SELECT"}]
    system.close()


def test_a_swap_beside_a_search_hides_nothing_from_it(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, other = SqlEngine(system.database), SqlEngine(system.database)
    create(system, "avi")
    catch_up(system.database, other.replacement())
    create(system, "avi")
    catch_up(system.database, engine)
    now = head(system)
    # Whoever swaps has not seen the second job: as one whose swap does not look would not.
    monkeypatch.setattr("ledger.projections.search.sql_engine.store.read_position", lambda _: 0)
    original = type(system.database).translated
    swapped: list[bool] = []

    @contextmanager
    def swapping(database: Database) -> Iterator[None]:
        with original(database):
            yield
        if not swapped:
            swapped.append(True)
            other.swap()

    monkeypatch.setattr(type(system.database), "translated", swapping)
    found = engine.search(["avi"], head=now, limit=9, offset=0)

    assert (found, swapped) == ([2, 1], [True])
    with pytest.raises(Behind):
        engine.search(["avi"], head=now, limit=9, offset=0)


def test_a_swap_does_not_take_the_index_back(system: System) -> None:
    engine = SqlEngine(system.database)
    create(system, "avi")
    catch_up(system.database, engine.replacement())
    create(system, "avi")
    catch_up(system.database, engine)

    engine.swap()

    assert engine.search(["avi"], head=head(system), limit=9, offset=0) == [2, 1]
    assert engine.replacement_checkpoint() is None


def test_who_indexes_while_words_are_swapped_goes_on(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = open_system(postgres_url)
    migrate(system.database)
    create(system, "avi")
    engine, other = SqlEngine(system.database), SqlEngine(system.database)
    catch_up(system.database, engine)
    catch_up(system.database, other.replacement())
    create(system, "avi")
    followed: Queue[object] = Queue()

    def follow() -> None:
        try:
            followed.put(catch_up(system.database, engine))
        except Exception as error:  # noqa: BLE001 - it is what is looked at
            followed.put(error)
        system.database.release()

    thread = threading.Thread(target=follow)
    waits = "SELECT count(*) AS n FROM pg_locks WHERE NOT granted"
    original = sql_words.Tsvector.grants

    def grants(words: sql_words.Tsvector, tx: Connection) -> Sequence[str]:
        thread.start()
        wait_until(lambda: tx.scalar(text(waits)) == 1, "it waits for the checkpoint")
        return original(words, tx)

    monkeypatch.setattr(sql_words.Tsvector, "grants", grants)
    other.swap()
    thread.join()

    assert followed.get() == 2
    assert engine.search(["avi"], head=head(system), limit=9, offset=0) == [2, 1]
    system.close()


def test_a_begun_rebuild_that_a_downgrade_left_is_begun_anew(system: System) -> None:
    engine = SqlEngine(system.database)
    create(system, "avi")
    engine.replacement()
    migrate(system.database, to="0002")
    migrate(system.database)

    rebuild(system.database, [engine], silently)

    assert engine.search(["avi"], head=head(system), limit=1, offset=0) == [1]


# --- waiting


class Clock:
    """A replacement of the module ``time`` whose time passes in ``sleep`` only."""

    def __init__(self) -> None:
        self.slept_s = 0.0

    def monotonic(self) -> float:
        return self.slept_s

    def sleep(self, seconds: float) -> None:
        self.slept_s += seconds
        assert self.slept_s < 60, "it waits without end"


def test_a_search_waits_no_longer_than_it_may_and_says_how_far_the_index_is(
    system: System, folder: Path, engine: WhooshEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(system, "avi")
    catch_up(system.database, engine)
    create(system, "avi")
    reader = Search(system.database, engine, wait_ms=30_000, indexes=False)
    clock = Clock()
    monkeypatch.setattr("ledger.projections.search.search.time", clock)

    with pytest.raises(Unavailable, match="has reached event 1 of 2"):
        reader.find("avi")

    assert clock.slept_s == pytest.approx(30)


def test_an_index_that_cannot_be_read_is_not_indexed_without_end(
    system: System, engine: WhooshEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> list[int]:
        raise Unavailable("no")

    monkeypatch.setattr(engine, "search", fail)
    create(system, "avi")

    with pytest.raises(Unavailable, match="no"):
        Search(system.database, engine, wait_ms=20).find("avi")


def test_nobody_indexes_what_another_process_does(
    system: System, folder: Path, engine: WhooshEngine
) -> None:
    create(system, "avi")
    leadership = engine.leadership()
    assert leadership.held()
    busy = Search(system.database, engine, wait_ms=0)
    with pytest.raises(Unavailable):
        busy.find("avi")
    leadership.release()

    assert list(busy.find("avi").job_ids) == [1]


def test_an_engine_refuses_to_answer_for_what_it_has_not_seen(
    system: System, engine: WhooshEngine
) -> None:
    create(system, "avi")
    for each in (engine, SqlEngine(system.database)):
        with pytest.raises(Behind):
            each.search(["avi"], head=head(system), limit=1, offset=0)


@pytest.mark.parametrize("query", ["x" * (LONGEST_QUERY + 1)])
def test_a_query_that_is_too_long_is_refused(system: System, query: str) -> None:
    with pytest.raises(InvalidInput):
        system.search.find(query)


def test_postgresql_collects_all_matches_where_the_newest_are_not_soon_found(
    postgres_url: str,
) -> None:
    composed = compose(Settings(database_url=postgres_url))
    migrate(composed.database)
    engine = SqlEngine(composed.database, quick_ms=1)
    system = replace(composed, make_search=lambda: Search(composed.database, engine, wait_ms=5_000))
    system.ledger.submit(
        [Create(type="t", data=f'"w{n % 2} v{(n + 1) % 2} all"') for n in range(4_000)],
        actor="test",
    )
    found(system, "all")
    words = engine._words
    assert isinstance(words, sql_words.Tsvector)
    with system.database.write() as tx:
        sure = tx.execute(
            words._sure,
            {"name": "search", "asked": "'all'", "at_least": 4_000, "limit": 2, "offset": 1},
        ).one()

    assert tuple(sure) == (4_000, WORDS_VERSION, "3999,3998")
    assert found(system, "w0 w1") == []
    assert found(system, "w0 all")[:2] == [3999, 3997]
    system.close()


# --- the queue, and off


def test_a_queue_finds_its_jobs(system: System) -> None:
    queue = queue_of(system, actor="test", lease_ms=1)
    first, second = (queue.create("t", {"to": f"{n}@example.org"}) for n in (1, 2))
    assert queue.search("example.org") == [second, first]
    assert queue.search("example.org", limit=1, offset=1) == [first]
    assert queue.search("2@example.org") == [second]
    second.remove()

    assert queue.search("example") == [first]
    for bad in ({"limit": 0}, {"limit": 10_001}, {"offset": -1}):
        with pytest.raises(InvalidInput):
            queue.search("x", **bad)


def test_with_search_off_nothing_is_found_and_nothing_written(
    system: System, database_url: str, tmp_path: Path
) -> None:
    off = compose(
        Settings(database_url=database_url, search="off", search_directory=str(tmp_path / "off"))
    )
    create(off, "avi")

    assert found(off, "avi") == []
    assert not (tmp_path / "off").exists()
    off.close()


# --- which segments are joined


def segments(*sizes: int) -> list[Segment]:
    made = []
    for size in sizes:
        segment = Segment()
        segment.set_doc_count(size)
        made.append(segment)
    return made


@pytest.mark.parametrize(
    ("sizes", "joined"),
    [
        ((), None),
        ((1,) * 7, None),
        ((1,) * 8, slice(0, 8)),
        ((8,) + (1,) * 7, None),
        ((8,) + (1,) * 8, slice(1, 9)),
        ((8,) * 8, slice(0, 8)),
        ((64, 8, 8, 8) + (1,) * 3, None),
        ((LARGEST_JOINED,) + (1,) * 7, None),
        ((30_000,) * 4, slice(1, 4)),
        ((90_000, 90_000), None),
        ((60_000,) * 3, None),
    ],
)
def test_neighbours_of_one_size_are_joined(sizes: tuple[int, ...], joined: slice | None) -> None:
    assert to_join(segments(*sizes)) == joined


def test_a_segment_of_which_much_is_deleted_is_written_again() -> None:
    some = segments(100, 100)
    some[0].delete(range(25))
    assert to_join(some) is None
    some[0].delete(range(26))

    assert to_join(some) == slice(0, 1)


def test_segments_stay_few_however_many_commits() -> None:
    sizes: list[int] = []
    random_ = random.Random(1)
    for _ in range(3_000):
        sizes.append(random_.choice((1, 1, 3, 40, 300, 2_000)))
        while (run := to_join(segments(*sizes))) is not None:
            sizes[run] = [sum(sizes[run])]

    assert len(sizes) < 60
