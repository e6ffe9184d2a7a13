"""While a rebuild runs, writers go on, and no reader sees a half-built view.

Smaller than ``benchmarks/rebuild.py``, which measures how long a writer waits with
200,000 jobs; here it is what must hold at any size.
"""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import text

from ledger.errors import Unavailable
from ledger.log import store
from ledger.processes.composition import System
from ledger.projections.follower import catch_up
from ledger.projections.models.job_runs import JobList
from ledger.projections.models.state_counts import StateCounts
from ledger.projections.projection import Projection
from ledger.projections.rebuild.build import Build
from ledger.projections.rebuild.rebuild import rebuild
from ledger.projections.rebuild.steps import Steps
from ledger.rules.commands import Complete, Create, Remove, Start
from tests.builders import batches_of, carry_out, open_system, rows, silently, tamper, verified
from tests.integration.servers import surroundings
from tests.integration.test_catch_up import eventually, lives
from tests.integration.test_crashes import is_free

JOBS: Final = 600
EVENTS: Final = JOBS * 5
BATCH: Final = EVENTS // 50
# A rebuild takes many steps.
SMALL: Final = batches_of(BATCH)


@pytest.fixture
def filled(system: System) -> System:
    """Return a ledger of ``EVENTS`` events."""
    system.ledger.submit(lives(JOBS), actor="test")
    return system


@contextmanager
def beside(*works: Callable[[threading.Event], None]) -> Iterator[None]:
    """Do each of *works* in a thread of its own, until they are told to end."""
    over = threading.Event()
    errors: list[BaseException] = []

    def run(work: Callable[[threading.Event], None]) -> None:
        try:
            work(over)
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(60)
    if errors:
        raise errors[0]


def test_writers_go_on_and_readers_see_whole_views(filled: System, database_url: str) -> None:
    rebuild_beside_others(filled, database_url, rebuilds=1)


def rebuild_beside_others(filled: System, database_url: str, *, rebuilds: int) -> None:
    """Rebuild while a writer writes and readers read; tests/soak rebuilds more often."""
    written: list[int] = []
    seen: list[int] = []

    def write(over: threading.Event) -> None:
        with closing(open_system(database_url)) as own:
            while not over.is_set():
                (created,) = carry_out(own, Create(type="email"))
                job_id = created.job_id
                carry_out(own, Start(job_id=job_id), Complete(job_id=job_id, attempt=1))
                carry_out(own, Remove(job_id=job_id - JOBS))
                written.append(job_id)

    def read(over: threading.Event) -> None:
        with closing(open_system(database_url)) as own:
            while not over.is_set():
                with own.database.snapshot() as connection:
                    # First the moment, then what it must show: all of it is of that moment.
                    head = store.read_head(connection)
                    length = own.jobs.lists.length(connection, JobList())
                    counts = own.state_counts.stats(connection).counts
                    number = connection.scalar(text("SELECT count(*) FROM ledger_jobs"))
                    removed = connection.scalar(
                        text("SELECT count(*) FROM ledger_events WHERE kind = 'removed'")
                    )
                    expected = head.last_job_id - (removed or 0)
                    assert (length, sum(counts.values()), number) == (expected,) * 3
                with own.database.read() as connection:
                    seen.append(len(own.jobs.lists.page(connection, JobList(), 0, 9).json))
                assert seen[-1] > 1_000

    def others_go_on(done: int, _total: int) -> None:
        """Wait, before the first batches of a rebuild, for what it must not hold up."""
        # Later on, it would never come to the end, which the writer moves on.
        if done <= BATCH:
            writes, reads = len(written), len(seen)
            # One of each may have been nearly done before.
            eventually(lambda: len(written) > writes + 1 and len(seen) > reads + 1)

    with beside(write, read, read):
        for _ in range(rebuilds):
            models = list(filled.models.values())
            rebuild(filled.database, models, others_go_on, steps=SMALL)

    assert verified(filled).differences == []
    assert filled.activity.checkpoint() > 0


def test_a_snapshot_holds_off_the_swap_and_nobody_else(filled: System, database_url: str) -> None:
    with closing(open_system(database_url)) as reader:
        with reader.database.snapshot() as connection:
            before = store.read_position(connection)
            done: list[int] = []
            rebuilding = threading.Thread(
                target=lambda: done.append(rebuild(filled.database, filled.projections, silently))
            )
            rebuilding.start()
            # The snapshot sees what it saw, whether the swap has been (SQLite) or waits.
            for _ in range(20):
                carry_out(filled, Create(type="late"))
                assert reader.jobs.lists.length(connection, JobList()) == JOBS
                number = connection.scalar(text("SELECT count(*) FROM ledger_jobs"))
                assert (number, store.read_position(connection)) == (JOBS, before)
            if not filled.database.is_embedded:
                assert done == []
        rebuilding.join(60)

    assert done != []
    assert verified(filled).differences == []


def test_a_reader_without_end_is_told_of(
    filled: System, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if filled.database.is_embedded:
        monkeypatch.setattr("ledger.projections.rebuild.table_swap.locked_for_swap", in_use)
    with closing(open_system(database_url)) as reader:
        with reader.database.snapshot():
            with pytest.raises(Unavailable, match="the partial result is kept, so try again"):
                rebuild(filled.database, filled.projections, silently, patience_s=0.2)
            carry_out(filled, Create(type="late"))
        kept = Build(filled.database, filled.projections).begun()
        monkeypatch.undo()
        rebuild(filled.database, filled.projections, silently)

    assert kept == EVENTS
    assert verified(filled).differences == []


@contextmanager
def in_use(*_: object) -> Iterator[None]:
    from ledger.projections.rebuild.table_swap import InUse  # noqa: PLC0415 - as the one place that raises it

    raise InUse("other transactions have been reading the live tables")
    yield


def test_two_rebuilds_do_not_meet(filled: System, database_url: str) -> None:
    with closing(open_system(database_url)) as other:
        leadership = other.database.leadership("rebuild")
        assert leadership.held()
        with pytest.raises(Unavailable, match="another rebuild is running"):
            rebuild(filled.database, filled.projections, silently)
        leadership.release()


# --- interrupted


def test_an_interrupted_rebuild_goes_on_where_it_was(filled: System) -> None:
    told: list[int] = []

    def interrupt(done: int, _total: int) -> None:
        if done >= 5 * BATCH:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rebuild(filled.database, filled.projections, interrupt, steps=SMALL)
    kept = [Build(filled.database, [each]).begun() for each in filled.projections]
    rebuild(filled.database, filled.projections, lambda done, _: told.append(done), steps=SMALL)

    assert kept == [5 * BATCH] * 4
    assert told[:2] == [5 * BATCH, 6 * BATCH]
    assert Build(filled.database, filled.projections).begun() is None
    assert verified(filled).differences == []


def test_twins_that_were_begun_apart_are_finished_together(filled: System) -> None:
    for projection, stop in ((filled.jobs, 400), (filled.state_counts, 800)):
        build = Build(filled.database, [projection], steps=SMALL)
        build.begin()
        catch_up(filled.database, build, through=stop)

    rebuild(filled.database, filled.projections, silently, steps=SMALL)

    assert verified(filled).differences == []


def test_what_was_begun_by_another_version_is_begun_anew(filled: System) -> None:
    class Newer(StateCounts):
        version = 2

    build = Build(filled.database, [filled.state_counts], steps=SMALL)
    build.begin()
    catch_up(filled.database, build, through=400)

    newer = Build(filled.database, [Newer()], steps=SMALL)
    newer.begin()

    assert newer.begun() == 0
    assert rows(filled, "SELECT * FROM ledger_state_counts_green") == []


def test_what_was_begun_can_be_thrown_away(filled: System) -> None:
    names = {
        True: "SELECT name FROM sqlite_master ORDER BY 1",
        False: "SELECT relname AS name FROM pg_class WHERE relnamespace = "
        "'public'::regnamespace ORDER BY 1",
    }[filled.database.is_embedded]
    before = rows(filled, names)
    build = Build(filled.database, filled.projections, steps=SMALL)
    build.begin()
    catch_up(filled.database, build, through=400)
    build.finish()
    between = rows(filled, names)

    build.drop()

    assert len(between) > len(before)
    assert rows(filled, names) == before
    assert build.begun() is None


# Rebuilds everything, a few events at a time, and again.
REBUILD: Final = """
import sys
from ledger.processes.composition import compose
from ledger.processes.settings import Settings
from ledger.projections.rebuild.rebuild import rebuild
from ledger.projections.rebuild.steps import Steps

batch = int(sys.argv[2])
steps = Steps(first_batch=batch, smallest_batch=batch, largest_batch=batch)
system = compose(Settings(database_url=sys.argv[1]))
models = list(system.models.values())
while True:
    rebuild(system.database, models, lambda *_: print(".", flush=True), steps=steps)
"""


def test_a_rebuild_that_is_killed_at_any_moment_leaves_everything_whole(
    filled: System, database_url: str, tmp_path: Path
) -> None:
    kill_rebuilds(filled, database_url, tmp_path, after_steps=(7, 21, 23))


def kill_rebuilds(
    filled: System, database_url: str, folder: Path, *, after_steps: Sequence[int]
) -> None:
    """Kill a rebuild of twenty batches after so many steps; tests/soak kills at more moments."""
    jobs = JOBS
    for steps in after_steps:
        process = subprocess.Popen(
            [sys.executable, "-c", REBUILD, database_url, str(EVENTS // 20)],
            env=surroundings(folder),
            cwd=folder,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        with process:
            assert process.stdout is not None
            for _ in range(steps):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
        carry_out(filled, Create(type="late"))
        jobs += 1
        with filled.database.read() as connection:
            assert filled.jobs.lists.length(connection, JobList()) == jobs
        assert verified(filled).differences == []

    # Their lock died with them, and whatever they had left is cleared away.
    eventually(lambda: is_free(filled))
    rebuild(filled.database, list(filled.models.values()), silently)
    assert verified(filled).differences == []
    assert leftovers(filled) == []


def leftovers(system: System) -> list[Any]:
    names = (
        "SELECT name FROM sqlite_master"
        if system.database.is_embedded
        else ("SELECT relname AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace")
    )
    return [
        *(row["name"] for row in rows(system, names) if "_green" in row["name"]),
        *(row["name"] for row in rows(system, names) if "_old" in row["name"]),
        *rows(system, "SELECT * FROM ledger_rebuilds"),
    ]


def test_a_large_old_table_is_emptied_little_by_little(filled: System) -> None:
    steps = Steps(rows_at_once=JOBS // 7)

    rebuild(filled.database, filled.projections, silently, steps=steps)

    assert leftovers(filled) == []
    assert verified(filled).differences == []


def test_where_names_of_indexes_cannot_be_changed_they_are_built_anew(
    filled: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexes = "SELECT name, tbl_name FROM sqlite_master WHERE type = 'index' ORDER BY 1"
    before = rows(filled, indexes) if filled.database.is_embedded else []

    def forbidden(*_: object) -> None:
        from sqlalchemy import exc  # noqa: PLC0415 - only here

        raise exc.OperationalError("", None, Exception("table may not be modified"))

    monkeypatch.setattr("ledger.projections.rebuild.table_swap._rename_indexes", forbidden)
    rebuild(filled.database, filled.projections, silently)

    if filled.database.is_embedded:
        assert rows(filled, indexes) == before
    assert verified(filled).differences == []


def test_what_others_may_read_they_may_read_after_a_swap(filled: System) -> None:
    if filled.database.is_embedded:
        return
    role = "ledger_reader"
    with filled.database.write() as tx:
        tx.execute(text(f"DROP ROLE IF EXISTS {role}"))
        tx.execute(text(f"CREATE ROLE {role}"))
        tx.execute(text(f"GRANT SELECT ON ledger_jobs TO {role} WITH GRANT OPTION"))
        tx.execute(text("GRANT SELECT, UPDATE ON ledger_state_counts TO PUBLIC"))
    grants = """
        SELECT table_name, grantee, privilege_type, is_grantable
        FROM information_schema.role_table_grants
        WHERE table_schema = 'public' AND grantee <> grantor
        ORDER BY 1, 2, 3
    """
    before = rows(filled, grants)

    rebuild(filled.database, filled.projections, silently)
    after = rows(filled, grants)
    with filled.database.write() as tx:
        tx.execute(text(f"DROP OWNED BY {role}"))
        tx.execute(text(f"DROP ROLE {role}"))
        tx.execute(text("REVOKE ALL ON ledger_state_counts FROM PUBLIC"))

    assert len(before) == 3
    assert after == before


def test_differences_are_told_and_history_wins(filled: System) -> None:
    tamper(
        filled,
        "UPDATE ledger_jobs SET priority = 7 WHERE id = 3",
        "DELETE FROM ledger_state_counts WHERE type = 'email'",
    )
    told: list[str] = []

    rebuild(
        filled.database,
        filled.projections,
        silently,
        differs=lambda each: told.append(f"{each.where}: {each.found} -> {each.expected}"),
    )

    assert told[0] == "ledger_jobs id=3: priority=7 -> priority=0"
    assert [line.partition(":")[0] for line in told[1:]] == [
        "ledger_state_counts type=email state=complete"
    ]
    assert verified(filled).differences == []


def test_a_view_whose_table_is_gone_is_rebuilt(filled: System) -> None:
    tamper(filled, "DROP TABLE ledger_state_counts")

    rebuild(filled.database, [filled.state_counts], silently)

    assert verified(filled).differences == []
    assert json.loads(json.dumps(rows(filled, "SELECT count(*) AS n FROM ledger_rebuilds"))) == [
        {"n": 0}
    ]


def test_names_that_a_twin_would_need_too_are_refused() -> None:
    from sqlalchemy import Column, Text, UniqueConstraint  # noqa: PLC0415 - only here

    class Named(StateCounts):
        def __init__(self) -> None:
            Projection.__init__(self)
            self._define("named", Column("a", Text), UniqueConstraint("a", name="only_one"))

    with pytest.raises(TypeError, match="use Index"):
        Named()
