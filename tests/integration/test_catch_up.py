"""A follower is told every change once, in order, however it is interrupted."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, insert

from ledger.errors import Overtaken, Stuck, Unavailable
from ledger.log.history import read_histories
from ledger.log.recorded import AnyChange, Change
from ledger.log.schema import failures
from ledger.processes.composition import System
from ledger.projections.follower import CatchUp, catch_up
from ledger.projections.following import Failure, Following, read_failures
from ledger.projections.replay import Memory, replay
from ledger.projections.search.sql_engine import SqlEngine
from ledger.projections.search.whoosh.engine import WhooshEngine
from ledger.rules.commands import Complete, Create, Erase, Log, Progress, Start
from tests.builders import carry_out, open_system, relink, rows, tamper
from tests.followers import Remembering
from tests.integration.servers import DEADLINE_S


def lives(number: int, *, start: int = 1) -> list[Any]:
    """Return the lives of jobs, interwoven so that most are met again in a later batch."""
    ids = range(start, start + number)
    return [
        *(Create(type="email", data=f'"data {job_id}"') for job_id in ids),
        *(Start(job_id=job_id) for job_id in ids),
        *(Progress(job_id=job_id, attempt=1, progress=50, data='"half"') for job_id in ids),
        *(Log(job_id=job_id, attempt=1, line='"line"') for job_id in ids),
        *(Complete(job_id=job_id, attempt=1, result=f'"done {job_id}"') for job_id in ids),
    ]


@pytest.fixture
def filled(system: System) -> System:
    """Return a ledger of 200 events of 40 jobs."""
    system.ledger.submit(lives(40), actor="test")
    return system


def replayed(system: System, *, content: bool = False) -> list[AnyChange]:
    with system.database.snapshot() as connection:
        (position,) = rows(system, "SELECT position FROM ledger_head")
        whole = replay(connection, through=position["position"], content=content)
        return [change for changes in whole for change in changes]


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, "it never came to be"
        threading.Event().wait(0.005)


# --- catch_up


@pytest.mark.parametrize("batch", [1, 7, 200, 1_000])
def test_it_is_told_what_a_replay_tells(filled: System, batch: int) -> None:
    follower = Remembering(filled)

    position = catch_up(filled.database, follower, batch=batch)

    assert position == follower.position == 200
    assert follower.told == replayed(filled)
    assert max(through - first + 1 for first, through in follower.calls) == min(batch, 200)


def test_it_goes_on_behind_its_checkpoint(filled: System) -> None:
    follower = Remembering(filled)
    catch_up(filled.database, follower, through=57)
    half = list(follower.told)

    catch_up(filled.database, follower, batch=30)
    again = catch_up(filled.database, follower)

    assert len(half) == 57
    assert again == 200
    assert follower.told == replayed(filled)


def test_one_that_catches_up_again_and_again_is_told_the_same(system: System) -> None:
    follower = Remembering(system)
    catching_up = CatchUp(system.database, follower)
    reached = []

    for command in lives(6):
        carry_out(system, command)
        reached.append(catching_up.run())

    assert reached == list(range(1, 31))
    assert follower.told == replayed(system)


def test_nothing_is_remembered_of_a_ledger_that_was_as_long(system: System) -> None:
    follower = Remembering(system)
    catching_up = CatchUp(system.database, follower)
    carry_out(system, Create(type="email"))
    catching_up.run()
    with closing(open_system(url_of(system))) as other:
        tamper(other, "UPDATE ledger_events SET body = replace(body, 'email', 'sms')")
        relink(other)
        carry_out(other, Start(job_id=1))

    assert catching_up.run() == 2

    assert [change.after.type for change in follower.told if isinstance(change, Change)] == [
        "email",
        "sms",
    ]


@pytest.mark.parametrize("search", [False, True])
def test_what_was_read_of_another_ledger_is_not_applied(
    system: System, tmp_path: Path, *, search: bool
) -> None:
    """It was put in the place of this one after the events were read."""
    engines = [WhooshEngine(system.database, tmp_path / "index"), SqlEngine(system.database)]
    followers = engines if search else [system.activity]
    carry_out(system, Create(type="email"))
    changes = replayed(system)
    with closing(open_system(url_of(system))) as other:
        tamper(other, "UPDATE ledger_events SET actor = 'other'")

    for follower in followers:
        with pytest.raises(Unavailable, match="event 1 is not the one that was read"):
            follower.follow(changes, through=1)
        assert follower.checkpoint() == 0


def url_of(system: System) -> str:
    return system.database.engine.url.render_as_string(hide_password=False)


def test_nothing_is_told_where_nothing_has_happened(system: System) -> None:
    follower = Remembering(system)

    assert catch_up(system.database, follower) == 0
    assert follower.calls == []


def test_progress_is_told(filled: System) -> None:
    told: list[tuple[int, int]] = []

    catch_up(
        filled.database, Remembering(filled), batch=80, advance=lambda *step: told.append(step)
    )

    assert told == [(80, 200), (160, 200), (200, 200)]


def test_content_is_told_to_who_wants_it(filled: System) -> None:
    carry_out(filled, Erase(job_id=3))
    plain, full = Remembering(filled), Remembering(filled, content=True)

    catch_up(filled.database, plain)
    catch_up(filled.database, full)

    contents = [change.recorded.event.content for change in full.told]
    assert {change.recorded.event.content for change in plain.told} == {None}
    assert contents[:4] == ['"data 1"', '"data 2"', None, '"data 4"']
    assert contents[160:164] == ['"done 1"', '"done 2"', None, '"done 4"']
    assert full.told == replayed(filled, content=True)
    assert [change.after for change in full.told] == [change.after for change in plain.told]


def test_much_content_is_told_in_smaller_batches(filled: System) -> None:
    plain, full = Remembering(filled), Remembering(filled, content=True)

    ends = [
        CatchUp(filled.database, follower, most_content=300, first_read=30).run()
        for follower in (plain, full)
    ]

    assert ends == [200, 200]
    assert full.told == replayed(filled, content=True)
    assert plain.calls == [(1, 200)]
    assert full.calls[0] == (1, 90)


def test_the_jobs_of_a_batch_are_recalled_together(filled: System) -> None:
    follower = Remembering(filled)
    follower.position = 160
    statements: list[str] = []

    def count(*call: Any) -> None:
        statements.append(call[2])

    if filled.database.is_embedded:
        with filled.database.read() as connection:
            driver: Any = connection.connection.driver_connection
            driver.set_trace_callback(statements.append)
            catch_up(filled.database, follower)
            driver.set_trace_callback(None)
    else:
        event.listen(filled.database.engine, "before_cursor_execute", count)
        catch_up(filled.database, follower)

    assert follower.told == replayed(filled)[160:]
    assert 0 < len(statements) <= 4


@pytest.mark.parametrize("page", [1, 3, 10_000])
def test_a_long_past_is_read_in_pages(filled: System, page: int) -> None:
    job_ids = range(1, 40, 2)
    before = [change.recorded for change in replayed(filled)[:130]]

    with filled.database.read() as connection:
        past = list(read_histories(connection, job_ids, through=130, at_once=7, page=page))

    assert past == sorted(
        (recorded for recorded in before if recorded.job_id in job_ids),
        key=lambda recorded: (recorded.job_id, recorded.version),
    )


def test_it_is_told_the_same_from_any_position_on(filled: System) -> None:
    follower = Remembering(filled)
    follower.position = 130

    catch_up(filled.database, follower)

    assert follower.told == replayed(filled)[130:]


def test_what_is_remembered_is_bounded(filled: System) -> None:
    memory = Memory(remembered=3)
    follower = Remembering(filled)
    catching_up = CatchUp(filled.database, follower)
    catching_up._memory = memory
    catching_up._remembered_at = (0, None)

    catching_up.run(batch=10)

    assert len(memory._jobs) == 3
    assert follower.told == replayed(filled)


def test_one_that_was_overtaken_says_so_and_then_goes_on(filled: System) -> None:
    follower = Remembering(filled)
    catching_up = CatchUp(filled.database, follower)
    catching_up.run(through=50)

    def overtake(_changes: Sequence[AnyChange]) -> None:
        follower.refuse = lambda _: None
        follower.position = 120
        raise Overtaken(follower.name, 120)

    follower.refuse = overtake
    with pytest.raises(Overtaken, match="to position 120") as refusal:
        catching_up.run()
    catching_up.run()

    assert refusal.value.position == 120
    whole = replayed(filled)
    assert follower.told == whole[:50] + whole[120:]


def poisoned(position: int) -> Callable[[Sequence[AnyChange]], None]:
    def refuse(changes: Sequence[AnyChange]) -> None:
        if any(change.recorded.position == position for change in changes):
            raise ZeroDivisionError("it cannot be divided")

    return refuse


@pytest.mark.parametrize("position", [1, 77, 128, 200])
def test_an_event_that_cannot_be_told_is_named_and_nothing_is_skipped(
    filled: System, position: int
) -> None:
    follower = Remembering(filled)
    follower.refuse = poisoned(position)

    with pytest.raises(Stuck) as stop:
        catch_up(filled.database, follower, batch=128)
    stopped_at = follower.position
    follower.refuse = lambda _: None
    catch_up(filled.database, follower, batch=128)

    assert (stop.value.position, stopped_at) == (position, position - 1)
    assert str(stop.value) == (
        f"remembering stopped before event {position}: ZeroDivisionError: it cannot be divided; "
        "it continues once that is fixed"
    )
    assert follower.told == replayed(filled)


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("UPDATE ledger_events SET kind = 'teleported' WHERE position = 90", "unknown kind"),
        ("UPDATE ledger_events SET version = 99 WHERE position = 90", "has version 99 after 2"),
        ("DELETE FROM ledger_events WHERE position = 90", "event 90 is missing"),
    ],
)
def test_a_history_that_contradicts_itself_stops_it_there(
    filled: System, statement: str, text: str
) -> None:
    tamper(filled, statement)
    follower = Remembering(filled)

    with pytest.raises(Stuck, match=text) as stop:
        catch_up(filled.database, follower)

    assert stop.value.position == 90


def test_one_whose_home_is_away_keeps_its_place(filled: System) -> None:
    def away(_changes: Sequence[AnyChange]) -> None:
        raise Unavailable("away")

    follower = Remembering(filled)
    follower.refuse = away

    with pytest.raises(Unavailable):
        catch_up(filled.database, follower)

    assert follower.position == 0


# --- Following


@pytest.fixture
def started(system: System) -> Iterator[Callable[[Remembering], Following]]:
    """Yield a function that starts to follow; all are stopped in the end."""
    all_ = []

    def start(follower: Remembering) -> Following:
        following = Following(
            system.database, follower, system.commit_notifier, stuck_s=0.01, standby_s=0.01
        )
        all_.append(following)
        following.start()
        return following

    yield start
    for following in all_:
        following.stop()


Starts = Callable[[Remembering], Following]


def test_it_follows_what_happens(filled: System, started: Starts) -> None:
    follower = Remembering(filled)
    started(follower)
    eventually(lambda: follower.position == 200)

    filled.ledger.submit(lives(10, start=41), actor="test")
    eventually(lambda: follower.position == 250)

    assert follower.told == replayed(filled)


def test_it_follows_what_other_processes_do(
    system: System, database_url: str, started: Starts
) -> None:
    follower = Remembering(system)
    started(follower)
    with closing(open_system(database_url)) as other:
        for number in range(1, 6):
            carry_out(other, Create(type="email"))
            eventually(lambda number=number: follower.position == number)  # type: ignore[misc]

    assert follower.told == replayed(system)


def test_it_ends_behind_a_batch_however_many_are_left(filled: System) -> None:
    follower = Remembering(filled)
    follower.batch = 10
    following = Following(filled.database, follower, filled.commit_notifier)
    follower.refuse = lambda _: following.stop()

    following.run()

    assert follower.calls == [(1, 10)]


def test_the_second_stands_by_and_takes_over(system: System, started: Starts) -> None:
    first, second = Remembering(system), Remembering(system)
    leader = started(first)
    carry_out(system, Create(type="email"))
    eventually(lambda: first.position == 1)

    started(second)
    carry_out(system, Create(type="email"))
    eventually(lambda: first.position == 2)
    before = second.position
    leader.stop()
    eventually(lambda: second.position == 2)

    assert before == 0


def test_what_stops_it_is_kept_until_it_is_mended(
    filled: System, started: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = Remembering(filled)
    follower.refuse = poisoned(150)
    following = started(follower)
    eventually(lambda: read_failures(filled.database) != [])
    (failure,) = read_failures(filled.database)
    stopped_at = follower.position

    follower.refuse = lambda _: None
    eventually(lambda: follower.position == 200)
    eventually(lambda: read_failures(filled.database) == [])

    assert failure._replace(at_ms=0) == Failure(
        "remembering", 150, "ZeroDivisionError: it cannot be divided", 0
    )
    assert stopped_at == 149
    assert following.failure is None
    assert follower.told == replayed(filled)


def test_what_stopped_a_process_that_died_is_forgotten_by_the_next(
    filled: System, started: Starts
) -> None:
    with filled.database.write() as tx:
        tx.execute(
            insert(failures), {"name": "remembering", "position": 7, "reason": "x", "at_ms": 1}
        )

    follower = Remembering(filled)
    started(follower)

    eventually(lambda: follower.position == 200)
    eventually(lambda: read_failures(filled.database) == [])


@pytest.mark.parametrize("error", [Unavailable("away"), Overtaken("x", 1), MemoryError()])
def test_it_survives_what_passes(
    filled: System, started: Starts, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[int] = []

    def refuse(changes: Sequence[AnyChange]) -> None:
        refused.append(len(changes))
        if len(refused) < 4:
            raise error

    follower = Remembering(filled)
    follower.refuse = refuse
    started(follower)

    eventually(lambda: follower.position == 200)
    assert follower.told == replayed(filled)
