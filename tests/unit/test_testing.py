"""Test mode: a queue of a test's own, a clock that is told the time, work done on call."""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

import ledger
from ledger import Fail, InvalidInput, Queue, Retry, RunningJob
from ledger.log.recorded import Recorded
from ledger.queue import presence
from ledger.rules.commands import Claim, Command, Pause, Start
from ledger.rules.events import LedgerEvent
from ledger.rules.job import JobState, evolve
from ledger.testing import Clock, Ran, drain, open_queue, strategies
from ledger.testing.clock import START_MS
from tests.builders import PERMITTED, PERMITTED_OF_LEDGER
from tests.integration.servers import surroundings

DOCUMENT = Path(__file__).parents[2] / "docs" / "testing.md"


def states(ran: list[Ran]) -> list[tuple[int, int, str]]:
    """Return what was done: jobs, attempts, and what they led to."""
    return [(one.job.id, one.attempt, one.state) for one in ran]


def failing_with(error: BaseException) -> Callable[[RunningJob], None]:
    """Return a handler that raises."""

    def handler(job: RunningJob) -> None:
        raise error

    return handler


# --- the clock


def test_a_clock_stands_until_it_is_told() -> None:
    clock = Clock()

    before = clock(), clock.now
    clock.advance(1.5)
    clock.advance(timedelta(days=1))
    clock.advance(-0.5)

    assert before == (START_MS, datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC))
    assert clock.now_ms == START_MS + 1_000 + 86_400_000


def test_a_clock_is_set_forwards_and_backwards() -> None:
    clock = Clock()

    clock.set(datetime(2030, 1, 1, tzinfo=UTC))
    later = clock.now
    clock.set(datetime(2000, 1, 1, 12, 0, 0, 1_000, tzinfo=UTC))

    assert later == datetime(2030, 1, 1, tzinfo=UTC)
    assert clock.now_ms == 946_728_000_001


def test_a_clock_is_not_set_without_a_time_zone() -> None:
    with pytest.raises(ValueError, match="expected an aware datetime"):
        Clock().set(datetime(2030, 1, 1))  # noqa: DTZ001 - the point


def test_the_ledgers_own_time_never_runs_back(ledger_queue: Queue, ledger_clock: Clock) -> None:
    first = ledger_queue.create("email")
    ledger_clock.advance(-3_600)
    second = ledger_queue.create("email")

    assert (second.created_at, ledger_clock.now) == (
        first.created_at,
        first.created_at - timedelta(hours=1),
    )


# --- a queue of one's own


def test_each_test_has_an_empty_queue_of_its_own() -> None:
    with open_queue() as one, open_queue() as other:
        one.create("email")

        assert (len(one.jobs()), len(other.jobs())) == (1, 0)


def test_nothing_is_left_of_a_queue() -> None:
    with open_queue() as queue:
        queue.create("email")
        folder = Path(queue.database.engine.url.database or "").parent
        before = folder.exists()

    assert (before, folder.exists()) == (True, False)


def test_only_the_first_queue_of_a_process_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_queue():
        pass

    def too_slow(_: object) -> None:
        raise AssertionError("migrations take longer than most tests")

    monkeypatch.setattr("ledger.testing.queues.migrate", too_slow)
    with open_queue() as queue, queue.database.read() as connection:
        flushes = connection.exec_driver_sql("PRAGMA synchronous").scalar()

    assert flushes == 0


def test_a_queue_stands_in_for_the_applications(ledger_clock: Clock) -> None:
    with open_queue(lease_ms=5_000) as application:
        ran = []
        application.process("email")(lambda job: ran.append(job.data))
        with open_queue(in_place_of=application, clock=ledger_clock) as queue:
            application.create("email", "a test's")
            drain(queue)
            during = queue is application, len(application.jobs()), application.ledger.clock
        after = len(application.jobs()), application.lease_ms

    assert during == (True, 1, ledger_clock)
    assert ran == ["a test's"]
    assert after == (0, 5_000)


def test_the_application_has_its_queue_back_after_a_test_that_failed() -> None:
    with open_queue() as application:
        ledger_before = application.ledger
        with pytest.raises(ZeroDivisionError), open_queue(in_place_of=application):
            raise ZeroDivisionError

        assert application.ledger is ledger_before


# --- drain


def test_everything_due_is_done_the_most_urgent_first(ledger_queue: Queue) -> None:
    @ledger_queue.process("email")
    def send(job: RunningJob) -> str:
        job.log("to %s", job.data["to"])
        job.progress(1, 2, {"half": True})
        return "sent"

    ordinary = ledger_queue.create("email", {"to": "ann"})
    urgent = ledger_queue.create("email", {"to": "bob"}, priority="high")
    other = ledger_queue.create("sms")

    ran = drain(ledger_queue)

    assert ran == [Ran(urgent, 1, "complete", None), Ran(ordinary, 1, "complete", None)]
    assert (urgent.result, urgent.progress_data, urgent.log()) == (
        "sent",
        {"half": True},
        ["to bob"],
    )
    assert other.state == "inactive"
    assert drain(ledger_queue) == []


def test_jobs_that_handlers_create_are_done_too(ledger_queue: Queue) -> None:
    @ledger_queue.process("countdown")
    def count(job: RunningJob) -> None:
        if job.data:
            ledger_queue.create("countdown", job.data - 1)

    ledger_queue.create("countdown", 2)

    assert states(drain(ledger_queue)) == [
        (1, 1, "complete"),
        (2, 1, "complete"),
        (3, 1, "complete"),
    ]


def test_a_delayed_job_waits_for_the_clock(ledger_queue: Queue, ledger_clock: Clock) -> None:
    ledger_queue.process("email")(lambda _: None)
    ledger_queue.create("email", delay=timedelta(minutes=5))

    ledger_clock.advance(299.999)
    before = drain(ledger_queue)
    ledger_clock.advance(0.001)

    assert (before, states(drain(ledger_queue))) == ([], [(1, 1, "complete")])


def test_a_handler_that_moves_the_clock_makes_others_due(
    ledger_queue: Queue, ledger_clock: Clock
) -> None:
    ledger_queue.process("slow")(lambda _: ledger_clock.advance(60))
    ledger_queue.process("email")(lambda _: None)
    ledger_queue.create("slow")
    ledger_queue.create("email", delay=60_000)

    assert states(drain(ledger_queue)) == [(1, 1, "complete"), (2, 1, "complete")]


def test_a_failed_attempt_is_tried_again_when_its_backoff_says(
    ledger_queue: Queue, ledger_clock: Clock
) -> None:
    ledger_queue.process("email")(failing_with(ValueError("no")))
    ledger_queue.create("email", attempts=3, backoff={"type": "exponential", "delay": 2000})
    ran = []

    for elapsed_ms in range(0, 5_000, 500):
        ran += [(elapsed_ms, *one) for one in states(drain(ledger_queue))]
        ledger_clock.advance(0.5)

    assert ran == [(0, 1, 1, "delayed"), (1_000, 1, 2, "delayed"), (4_000, 1, 3, "failed")]


def test_a_job_without_backoff_is_tried_again_at_once(ledger_queue: Queue) -> None:
    error = ValueError("no")
    ledger_queue.process("email")(failing_with(error))
    job = ledger_queue.create("email", attempts=2)

    ran = drain(ledger_queue)

    assert ran == [Ran(job, 1, "inactive", error), Ran(job, 2, "failed", error)]
    assert (job.error or "").splitlines()[0] == "ValueError: no"


def test_what_a_handler_asks_for_is_done(ledger_queue: Queue, ledger_clock: Clock) -> None:
    ledger_queue.process("later")(failing_with(Retry(after=1_000)))
    ledger_queue.process("never")(failing_with(Fail("no use")))
    ledger_queue.create("later", attempts=2)
    ledger_queue.create("never", attempts=2)

    first = states(drain(ledger_queue, raises=True))
    ledger_clock.advance(1)

    assert first == [(1, 1, "delayed"), (2, 1, "failed")]
    assert states(drain(ledger_queue, raises=True)) == [(1, 2, "failed")]


def test_a_paused_type_waits(ledger_queue: Queue) -> None:
    ledger_queue.process("email")(lambda _: None)
    ledger_queue.create("email")

    ledger_queue.execute(Pause(type="email"))
    paused = drain(ledger_queue)
    ledger_queue.resume("email")

    assert (paused, states(drain(ledger_queue))) == ([], [(1, 1, "complete")])


def test_only_the_types_that_are_named_are_done(ledger_queue: Queue) -> None:
    for type_ in ("email", "sms"):
        ledger_queue.process(type_)(lambda _: None)
        ledger_queue.create(type_)

    assert states(drain(ledger_queue, types=["sms"])) == [(2, 1, "complete")]


def test_a_type_without_a_handler_is_refused(ledger_queue: Queue) -> None:
    with pytest.raises(InvalidInput, match="no handler for fax, telex"):
        drain(ledger_queue, types=["telex", "fax"])


def test_what_a_handler_raises_is_raised_where_asked_for(ledger_queue: Queue) -> None:
    ledger_queue.process("email")(failing_with(ValueError("no")))
    job = ledger_queue.create("email")
    waiting = ledger_queue.create("email")

    with pytest.raises(ValueError, match="no"):
        drain(ledger_queue, raises=True)

    assert (job.state, waiting.state) == ("failed", "inactive")


def test_what_is_meant_for_the_test_is_always_raised(ledger_queue: Queue) -> None:
    ledger_queue.process("email")(failing_with(KeyboardInterrupt()))
    job = ledger_queue.create("email")

    with pytest.raises(KeyboardInterrupt):
        drain(ledger_queue)

    assert job.state == "failed"


def test_a_job_that_creates_itself_without_end_is_noticed(ledger_queue: Queue) -> None:
    ledger_queue.process("again")(lambda _: ledger_queue.create("again") and None)
    ledger_queue.create("again")

    with pytest.raises(RuntimeError, match="jobs are still waiting after 20 attempts"):
        drain(ledger_queue, most=20)

    assert ledger_queue.stats()["active"] == 0


def test_as_many_attempts_as_are_allowed_are_no_error(ledger_queue: Queue) -> None:
    ledger_queue.process("email")(lambda _: None)
    ledger_queue.create("email")
    ledger_queue.create("email")

    assert len(drain(ledger_queue, most=2)) == 2


def test_an_attempt_past_its_ttl_fails_and_its_handler_can_tell(
    ledger_queue: Queue, ledger_clock: Clock
) -> None:
    rounds = []

    @ledger_queue.process("slow")
    def work(job: RunningJob) -> str:
        while not job.expired:
            rounds.append(ledger_clock.now_ms - START_MS)
            ledger_clock.advance(1)
        return "too late"

    job = ledger_queue.create("slow", ttl=timedelta(seconds=3))

    ran = drain(ledger_queue)

    assert (states(ran), job.error, job.result) == ([(1, 1, "failed")], "TTL exceeded", None)
    assert rounds == [0, 1_000, 2_000]


def test_progress_is_a_sign_of_life(ledger_queue: Queue, ledger_clock: Clock) -> None:
    @ledger_queue.process("slow")
    def work(job: RunningJob) -> None:
        for done in range(5):
            ledger_clock.advance(2)
            job.progress(done, 5)

    ledger_queue.create("slow", ttl=3_000)

    assert states(drain(ledger_queue)) == [(1, 1, "complete")]


def test_the_word_of_an_attempt_that_was_taken_away_does_not_count(ledger_queue: Queue) -> None:
    @ledger_queue.process("email")
    def send(job: RunningJob) -> str:
        ledger_queue.get(job.id).remove()
        job.log("still here")
        return "sent"

    job = ledger_queue.create("email")

    ran = drain(ledger_queue)

    assert states(ran) == [(1, 1, "removed")]
    assert [event.kind for event in job.events()] == ["created", "started", "removed"]


def test_a_job_that_is_removed_once_it_is_complete_is_complete(ledger_queue: Queue) -> None:
    ledger_queue.process("email")(lambda _: "sent")
    job = ledger_queue.create("email", remove_on_complete=True)

    assert states(drain(ledger_queue)) == [(1, 1, "complete")]
    assert job.wait() == "sent"


def test_the_jobs_of_a_lost_worker_are_done(ledger_queue: Queue, ledger_clock: Clock) -> None:
    ledger_queue.process("email")(lambda _: None)
    job = ledger_queue.create("email", attempts=2)
    ledger_queue.ledger.claim(Claim(worker="gone", slots={"email": 1}), actor="worker:gone")
    with ledger_queue.database.write() as tx:
        presence.beat(tx, "gone", {"email": 1}, now_ms=ledger_clock.now_ms, lease_ms=30_000)

    ledger_clock.advance(30)
    before = drain(ledger_queue)
    ledger_clock.advance(0.001)

    assert (before, states(drain(ledger_queue))) == ([], [(job.id, 2, "complete")])


# --- the plugin


def test_nothing_heavy_is_imported_before_a_test_asks_for_it() -> None:
    code = (
        "import sys, ledger.pytest_plugin\n"
        "print(sorted({'sqlalchemy', 'hypothesis', 'msgspec', 'ledger.queue'} & {*sys.modules}))"
    )

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout == "[]\n"


def test_the_public_names_need_neither_pytest_nor_hypothesis() -> None:
    code = (
        "import sys\n"
        "sys.modules |= {'pytest': None, 'hypothesis': None}\n"
        "import ledger, ledger.testing\n"
        "print([name for name in ledger.__all__ if getattr(ledger, name) is None])"
    )

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout == "[]\n"


def test_the_public_names_are_listed_and_others_refused() -> None:
    assert set(ledger.__all__) <= set(dir(ledger))
    with pytest.raises(AttributeError, match="has no attribute 'Quue'"):
        ledger.Quue  # type: ignore[attr-defined]  # noqa: B018 - the point


# Its oldest supported release does not know Hypothesis's own profile for slow machines.
PATIENT: Final = """
from hypothesis import HealthCheck, settings

settings.register_profile(
    "patient", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("patient")
"""


def test_every_example_of_the_document_passes(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    names = [block.splitlines()[0].removeprefix("# ") for block in blocks]
    for name, block in zip(names, blocks, strict=True):
        (tmp_path / name).write_text(block)
    (tmp_path / "conftest.py").write_text(PATIENT)

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"],
        cwd=tmp_path,
        env=surroundings(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, names) == (0, ["shop.py", *names[1:]]), done.stdout
    assert len(names) > 3


# --- the strategies


def test_every_job_of_the_strategy_can_be_created() -> None:
    create_jobs_of_the_strategy(examples=15)


def create_jobs_of_the_strategy(*, examples: int) -> None:
    """Require that a queue takes every job; tests/soak tries more."""

    @settings(max_examples=examples)
    @given(arguments=st.lists(strategies.jobs(), max_size=5))
    def create(arguments: list[dict[str, Any]]) -> None:
        with open_queue() as queue:
            created = [queue.create(**one) for one in arguments]

            assert [(job.type, job.data) for job in created] == [
                (one["type"], one.get("data", {})) for one in arguments
            ]

    create()


def test_every_command_of_the_strategy_is_one_that_the_ledger_answers() -> None:
    submit_commands_of_the_strategy(examples=20)


def submit_commands_of_the_strategy(*, examples: int) -> None:
    """Require that a ledger answers every command; tests/soak tries more."""
    targets = [strategies.Target(1, "active", 1, 2)]

    @settings(max_examples=examples)
    @given(command=strategies.commands(targets))
    def submit(command: Command) -> None:
        with open_queue() as queue:
            queue.create("email")
            queue.execute(Start(job_id=1, worker=strategies.WORKER))
            (answer,) = queue.ledger.submit([command], actor="test")

            assert type(answer).__name__ in {
                "Outcome",
                "Claimed",
                "Refused",
                "AttemptOver",
                "JobNotFound",
                "InvalidInput",
            }

    submit()


def test_a_history_is_gapless_in_order_and_permitted() -> None:
    follow_histories_of_the_strategy(examples=25)


def follow_histories_of_the_strategy(*, examples: int) -> None:
    """Require that every history is one that a ledger could have; tests/soak tries more."""

    @settings(max_examples=examples)
    @given(history=strategies.histories())
    def follow(history: list[Recorded]) -> None:
        versions = Counter[int]()
        at_state: dict[int, str] = {}
        entries: dict[str, str] = {}
        times = [recorded.at_ms for recorded in history]

        assert [recorded.position for recorded in history] == list(range(1, len(history) + 1))
        assert times == sorted(times)
        jobs: dict[int, JobState] = {}
        for recorded in history:
            versions[recorded.job_id] += 1
            assert recorded.version == versions[recorded.job_id]
            if isinstance(recorded.event, LedgerEvent):
                name = recorded.event.name
                permitted_here = PERMITTED_OF_LEDGER["type"][entries.get(name, "running")]
                entries[name] = permitted_here[recorded.event.kind]
                continue
            before = jobs.get(recorded.job_id) or JobState(recorded.job_id)
            after = evolve(before, recorded.event, position=recorded.position, at_ms=recorded.at_ms)
            permitted = PERMITTED[at_state.get(recorded.job_id, "absent")][recorded.event.kind]

            assert after.state in permitted
            jobs[after.id] = after
            at_state[after.id] = after.state

    follow()


def test_histories_get_old() -> None:
    """Every kind of event is in some history; else a projection's test would miss it."""
    tables = (*PERMITTED.values(), *PERMITTED_OF_LEDGER["type"].values())
    wanted = {kind for exits in tables for kind in exits}
    seen: set[str] = set()

    def look(history: list[Recorded]) -> bool:
        seen.update(recorded.event.kind for recorded in history)
        return seen >= wanted

    # Until all were seen; what it generates depends on the modules that are loaded.
    until = settings(max_examples=2_000, phases=[Phase.generate], database=None)
    find(strategies.histories(), look, settings=until)

    assert seen == wanted


def test_a_test_s_queue_finds_its_jobs(ledger_queue: Queue) -> None:
    job = ledger_queue.create("email", {"to": "tj@learnboost.com"})
    ledger_queue.create("email", {"to": "someone"})

    assert ledger_queue.search("learnboost") == [job]
