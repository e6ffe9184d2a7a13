"""Reading history: in order, in parts, and as of a moment."""

import pytest
from sqlalchemy import text

from ledger.errors import Corrupt, InvalidInput, SchemaMismatch, Unavailable
from ledger.log import hash_chain, store
from ledger.log.append import append
from ledger.log.history import read_recorded
from ledger.log.ledger import LONGEST_ACTOR, LONGEST_CAUSE
from ledger.log.recorded import Recorded
from ledger.log.store import Head
from ledger.processes.composition import System
from ledger.rules.commands import Complete, Create, Erase, FailAttempt, Log, Progress, Start
from ledger.rules.events import Created, Logged, Started
from tests.builders import START_MS, Clock, carry_out, open_system, rows, tamper, verified


@pytest.fixture
def filled(system: System) -> System:
    """Return a ledger of two jobs and eight events, one a second."""
    clock = Clock()
    system.ledger.clock = clock
    for command in (
        Create(type="email", data='{"n": 1.50}', unique="one"),
        Create(type="sms", data="[2]"),
        Start(job_id=1, worker="w"),
        Log(job_id=1, attempt=1, line='"first"'),
        Progress(job_id=1, attempt=1, progress=10, data='"at"'),
        Log(job_id=1, attempt=1, line='"second"'),
        Start(job_id=2),
        FailAttempt(job_id=1, attempt=1, error='"broken"'),
    ):
        system.ledger.execute(command, actor="worker:w", cause="request 7")
        clock.now_ms += 1_000
    return system


def test_an_event_is_stored_column_by_column(filled: System) -> None:
    with filled.database.read() as connection:
        first, third = (store.read_after(connection, after=n, limit=1)[0] for n in (0, 2))

    assert first._replace(salt=None, digest=None, chain=b"") == (
        1,
        1,
        1,
        "created",
        1,
        START_MS,
        "worker:w",
        "request 7",
        '{"type":"email","unique":"one"}',
        '{"n": 1.50}',
        None,
        None,
        b"",
    )
    assert (first.salt and len(first.salt), first.digest) == (
        16,
        hash_chain.digest(first.salt or b"", '{"n": 1.50}'),
    )
    assert (third.content, third.salt, third.digest) == (None, None, None)
    assert third.body == '{"attempt":1,"worker":"w"}'


def test_the_ledger_is_read_in_parts(filled: System) -> None:
    with filled.database.read() as connection:
        parts = [
            [envelope.position for envelope in store.read_after(connection, after=n, limit=3)]
            for n in (0, 3, 6, 8, 100)
        ]

    assert parts == [[1, 2, 3], [4, 5, 6], [7, 8], [], []]


def test_a_stream_is_read_in_parts(filled: System) -> None:
    with filled.database.read() as connection:
        whole = store.read_stream(connection, 1)
        rest = store.read_stream(connection, 1, after=2, limit=2)
        unknown = store.read_stream(connection, 99)

    assert [(each.version, each.position) for each in whole] == [
        (1, 1),
        (2, 3),
        (3, 4),
        (4, 5),
        (5, 6),
        (6, 8),
    ]
    assert rest == whole[2:4]
    assert unknown == []


def test_a_log_is_its_lines_and_failures_oldest_first(filled: System) -> None:
    with filled.database.read() as connection:
        whole = store.read_log(connection, 1, newest=100)
        newest = store.read_log(connection, 1, newest=2)
        nothing = store.read_log(connection, 2, newest=100)

    assert whole == [
        ("logged", 3, '"first"'),
        ("logged", 5, '"second"'),
        ("failed", 6, '"broken"'),
    ]
    assert newest == whole[1:]
    assert nothing == []


def test_a_reading_ends_before_it_has_too_many_bytes(filled: System) -> None:
    """Only a single event or line may have more."""
    with filled.database.read() as connection:
        stream = store.read_stream(connection, 1)
        first, second = (len(each.body) + len(each.content or "") for each in stream[:2])
        two = store.read_stream(connection, 1, most_bytes=first + second)
        one = store.read_stream(connection, 1, most_bytes=first + second - 1)
        least = store.read_after(connection, after=0, limit=5, most_bytes=1)
        line = store.read_log(connection, 1, newest=9, most_bytes=1)
        older = store.read_log(connection, 1, newest=9, before=6)
        has_older = [store.has_log(connection, 1, before=version) for version in (3, 4)]

    assert (two, one) == (stream[:2], stream[:1])
    assert [each.position for each in least] == [1]
    assert line == [("failed", 6, '"broken"')]
    assert older == [("logged", 3, '"first"'), ("logged", 5, '"second"')]
    assert has_older == [False, True]


def test_an_erased_line_stays_in_the_log_without_its_words(filled: System) -> None:
    carry_out(filled, Erase(job_id=1, versions=(3,)))
    with filled.database.read() as connection:
        log = store.read_log(connection, 1, newest=100)

    assert [content for _, _, content in log] == [None, '"second"', '"broken"']


def test_the_newest_versions_of_streams_are_read_at_once(filled: System) -> None:
    with filled.database.read() as connection:
        found = store.read_versions(connection, [1, 2, 99])
        nothing = store.read_versions(connection, [])

    assert (found, nothing) == ({1: 6, 2: 2}, {})


def test_content_is_read_by_position(filled: System) -> None:
    with filled.database.read() as connection:
        found = [store.read_content(connection, position) for position in (1, 2, 3, 99)]

    assert found == ['{"n": 1.50}', "[2]", None, None]


@pytest.mark.parametrize(
    ("at_ms", "position"),
    [
        (0, 0),
        (START_MS - 1, 0),
        (START_MS, 1),
        (START_MS + 999, 1),
        (START_MS + 1_000, 2),
        (START_MS + 6_500, 7),
        (START_MS + 7_000, 8),
        (START_MS + 10**9, 8),
    ],
)
def test_a_moment_is_a_position(filled: System, at_ms: int, position: int) -> None:
    with filled.database.snapshot() as connection:
        assert store.position_at(connection, at_ms) == position


def test_a_moment_in_which_much_happened_is_behind_all_of_it(system: System) -> None:
    system.ledger.clock = Clock()
    system.ledger.submit([Create(type="email")] * 5, actor="test")
    with system.database.snapshot() as connection:
        positions = [store.position_at(connection, START_MS + by) for by in (-1, 0, 1)]

    assert positions == [0, 5, 5]


def test_an_empty_ledger_has_a_head(system: System) -> None:
    with system.database.read() as connection:
        head = store.read_head(connection)
        position = store.read_position(connection)
        at = store.position_at(connection, START_MS)

    assert head == Head(position=0, chain=bytes(32), last_job_id=0, at_ms=0)
    assert (position, at) == (0, 0)


def test_the_head_is_the_end_of_history(filled: System) -> None:
    with filled.database.read() as connection:
        head = store.read_head(connection)
        last = store.read_after(connection, after=7, limit=1)[0]

    assert head == Head(position=8, chain=last.chain, last_job_id=2, at_ms=START_MS + 7_000)


def test_a_ledger_without_a_head_says_what_to_do(system: System) -> None:
    tamper(system, "DELETE FROM ledger_head")
    with (
        pytest.raises(SchemaMismatch, match="run `ledger migrate`"),
        system.database.read() as connection,
    ):
        store.read_position(connection)
    with pytest.raises(SchemaMismatch, match="run `ledger migrate`"):
        carry_out(system, Create(type="email"))


def test_an_append_returns_the_new_head(system: System) -> None:
    recorded = [
        Recorded(1, 1, 1, START_MS, "a", None, Created(type="email", content="1")),
        Recorded(2, 1, 2, START_MS, "a", None, Started(attempt=1)),
        Recorded(3, 1, 3, START_MS + 5, "a", "b", Logged(attempt=1, content='"x"')),
    ]
    with system.database.write() as tx:
        head = append(tx, recorded, after=store.lock_head(tx), last_job_id=1)
        stored = store.read_after(tx, after=0, limit=10)

    assert head == Head(position=3, chain=stored[-1].chain, last_job_id=1, at_ms=START_MS + 5)
    with system.database.read() as connection:
        assert store.read_head(connection) == head
        replayed = [each for part in read_recorded(connection, through=3) for each in part]
    assert [each[:6] for each in replayed] == [each[:6] for each in recorded]
    # Replay does without content.
    assert [each.event for each in replayed] == [
        Created(type="email"),
        Started(attempt=1),
        Logged(attempt=1),
    ]


@pytest.mark.parametrize("batch", [1, 3, 8, 100])
def test_history_is_replayed_in_lists_of_a_bounded_length(filled: System, batch: int) -> None:
    with filled.database.snapshot() as connection:
        parts = list(read_recorded(connection, after=2, through=7, batch=batch))

    assert [each.position for part in parts for each in part] == [3, 4, 5, 6, 7]
    assert max(len(part) for part in parts) <= batch


def test_history_that_ends_before_its_end_is_corrupt(filled: System) -> None:
    with (
        filled.database.snapshot() as connection,
        pytest.raises(Corrupt, match="event 9 is missing") as stop,
    ):
        list(read_recorded(connection, through=10))

    assert stop.value.position == 9


def test_a_failed_write_leaves_no_trace(filled: System) -> None:
    before = rows(filled, "SELECT * FROM ledger_head")

    def write() -> None:
        with filled.database.write() as tx:
            store.lock_head(tx)
            tx.execute(text("UPDATE ledger_head SET position = 99"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()

    assert rows(filled, "SELECT * FROM ledger_head") == before
    carry_out(filled, Complete(job_id=2, attempt=1))
    assert verified(filled).differences == []


def test_a_snapshot_shows_one_moment(filled: System) -> None:
    with filled.database.snapshot() as connection:
        before = store.read_position(connection)
        carry_out(filled, Create(type="email"))
        during = store.read_position(connection)
    with filled.database.read() as connection:
        after = store.read_position(connection)

    assert (before, during, after) == (8, 8, 9)


def test_a_read_shows_what_was_acknowledged(filled: System) -> None:
    with filled.database.read() as connection:
        positions = [store.read_position(connection)]
        for _ in range(3):
            (outcome,) = carry_out(filled, Create(type="email"))
            positions.append(store.read_position(connection))
            assert positions[-1] == outcome.position

    assert positions == [8, 9, 10, 11]


def test_everything_survives_closing_and_opening(filled: System, database_url: str) -> None:
    before = rows(filled, "SELECT * FROM ledger_events ORDER BY position")
    filled.close()

    again = open_system(database_url)
    after = rows(again, "SELECT * FROM ledger_events ORDER BY position")
    again.close()

    assert after == before


@pytest.mark.parametrize(
    ("actor", "cause"),
    [
        ("", None),
        ("x" * (LONGEST_ACTOR + 1), None),
        ("a\0", None),
        ("\ud800", None),
        ("a", ""),
        ("a", "x" * (LONGEST_CAUSE + 1)),
        ("a", "\0"),
    ],
)
def test_who_and_why_must_be_storable(system: System, actor: str, cause: str | None) -> None:
    with pytest.raises(InvalidInput, match=r"^(actor|cause): expected "):
        system.ledger.execute(Create(type="email"), actor=actor, cause=cause)

    assert rows(system, "SELECT * FROM ledger_events") == []


def test_who_and_why_are_kept_to_the_last_letter(system: System) -> None:
    actor, cause = "ü" * LONGEST_ACTOR, "😀" * LONGEST_CAUSE

    system.ledger.execute(Create(type="😀"), actor=actor, cause=cause)

    assert rows(system, "SELECT actor, cause FROM ledger_events") == [
        {"actor": actor, "cause": cause}
    ]
    assert verified(system).differences == []


def test_nothing_asked_is_nothing_done(system: System) -> None:
    assert system.ledger.submit([], actor="test") == []


def test_a_submission_of_any_size_is_one_transaction(system: System) -> None:
    outcomes = system.ledger.submit(
        [Create(type="email", unique=str(n)) for n in range(2_500)] * 2, actor="test"
    )

    assert len(outcomes) == 5_000
    assert rows(system, "SELECT position, last_job_id FROM ledger_head") == [
        {"position": 2_500, "last_job_id": 2_500}
    ]
    assert verified(system).differences == []


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////nowhere/at/all/ledger.db",
        "postgresql://nobody@127.0.0.1:1/nothing",
    ],
)
def test_a_database_that_is_away_is_unavailable(url: str) -> None:
    system = open_system(url)

    with pytest.raises(Unavailable) as away:
        system.ledger.execute(Create(type="email"), actor="test")

    assert str(away.value)
    assert away.value.retry_after_s == 1
    system.close()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("nonsense", "sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME, got 'nonsense'"),
        ("sqlite://", "a file: sqlite:///PATH, got 'sqlite://'"),
        ("sqlite:///:memory:", "a file: sqlite:///PATH, got 'sqlite:///:memory:'"),
        (
            "mysql://ann:secret@host/x",
            "sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME, got 'mysql://ann:***@host/x'",
        ),
    ],
)
def test_another_kind_of_database_is_refused(url: str, expected: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        open_system(url)

    assert str(refusal.value) == f"database url: expected {expected}"
