"""The audit after a run of the chaos test finds each thing that must not be."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

import pytest

from ledger.processes.composition import System
from ledger.rules.commands import Complete, Create, FailAttempt, Log, Lose, Move, Start
from tests.builders import carry_out, tamper
from tests.chaos import audit
from tests.chaos.clients import Asked, Client

PID: Final = 4711
WORKER: Final = f"host:{PID}:1"


class Run(NamedTuple):
    """What a run has left: the ledger, the files of its programs, and what a client was told."""

    system: System
    folder: Path
    client: Client

    def create(self, key: str, type_: str = "chaos", **options: Any) -> int:
        """Create a job, as a server or a producer does; return its id."""
        create = Create(type=type_, data=json.dumps({"key": key}), **options)
        (created,) = carry_out(self.system, create)
        return created.job_id

    def attempt(self, job_id: int, number: int, *, begin_ns: int, end_ns: int | None) -> None:
        """Note an attempt in the journal of the handlers."""
        with (self.folder / "journal").open("a") as journal:
            journal.write(f"{job_id} {number} begin {PID} {begin_ns}\n")
            if end_ns is not None:
                journal.write(f"{job_id} {number} end {PID} {end_ns}\n")

    def produce(self, *lines: str) -> None:
        """Note what a producer asked for and was told."""
        with (self.folder / "produced").open("a") as notes:
            notes.writelines(f"{line}\n" for line in lines)

    def faults(self) -> list[str]:
        """Return the kinds of what the audit finds."""
        found = audit.faults(self.system, self.folder, [self.client])
        return [fault.partition(":")[0] for fault in found]


@pytest.fixture
def left(system: System, tmp_path: Path) -> Run:
    """Return a run in which everything holds."""
    run = Run(system, tmp_path, Client(1, 1, Random(1)))
    posted, own, produced = run.create("c1n1", attempts=5), run.create("c1n2", "own-1"), 3
    run.produce("asks p1 1")
    run.create("p1n0")
    run.produce("created p1", "asks p2 5", "refused p2", "asks p3 1", "unknown p3", "asks p4 1")
    run.client.asked |= {
        "c1n1": Asked("chaos", {"key": "c1n1"}, posted),
        "c1n2": Asked("own-1", {"key": "c1n2"}, own),
    }
    run.client.states[own] = frozenset({"complete", "failed"})
    line = '"a line"'
    carry_out(
        system,
        Move(job_id=own, to="complete"),
        Start(job_id=posted, worker=WORKER),
        Lose(job_id=posted, attempt=1, worker=WORKER, silent_ms=1),
        Start(job_id=posted, worker=WORKER),
        *(Log(job_id=posted, attempt=2, line=line) for _ in range(2)),
        FailAttempt(job_id=posted, attempt=2, error='"no"'),
    )
    # A lost worker lives on.
    run.attempt(posted, 1, begin_ns=1, end_ns=None)
    run.attempt(posted, 2, begin_ns=2, end_ns=3)
    for job_id, number, begin_ns in ((posted, 3, 4), (produced, 1, 1)):
        carry_out(
            system,
            Start(job_id=job_id, worker=WORKER),
            *(Log(job_id=job_id, attempt=number, line=line) for _ in range(2)),
            Complete(job_id=job_id, attempt=number),
        )
        run.attempt(job_id, number, begin_ns=begin_ns, end_ns=begin_ns + 1)
    return run


def test_nothing_is_found_where_everything_holds(left: Run) -> None:
    assert left.faults() == []


def _lose(left: Run) -> None:
    left.client.asked["c1n3"] = Asked("own-1", {}, 99)


def _create_twice(left: Run) -> None:
    left.create("c1n2", "own-1")


def _create_what_nobody_asked_for(left: Run) -> None:
    left.create("c1n9", "own-1")


def _tell_another_id(left: Run) -> None:
    asked = left.client.asked["c1n2"]
    left.client.asked["c1n2"] = asked._replace(job_id=1)


def _move(left: Run) -> None:
    carry_out(left.system, Move(job_id=2, to="inactive"))


def _refuse_what_exists(left: Run) -> None:
    left.create("p9n0", "own-1")
    left.produce("asks p9 1", "refused p9")


def _create_what_does_not_exist(left: Run) -> None:
    left.produce("asks p9 1", "created p9")


def _create_half(left: Run) -> None:
    left.create("p9n0", "own-1")
    left.produce("asks p9 2")


def _leave(left: Run) -> None:
    left.create("p1n1", "count")


def _leave_active(left: Run) -> None:
    carry_out(left.system, Move(job_id=1, to="inactive"), Start(job_id=1, worker=WORKER))
    left.attempt(1, 4, begin_ns=10, end_ns=None)


def _work_at_once(left: Run) -> None:
    journal = left.folder / "journal"
    journal.write_text(journal.read_text().replace(f"1 2 end {PID} 3", f"1 2 end {PID} 9"))


def _work_without_a_claim(left: Run) -> None:
    left.attempt(1, 4, begin_ns=10, end_ns=11)


def _claim_without_work(left: Run) -> None:
    journal = left.folder / "journal"
    kept = [line for line in journal.read_text().splitlines() if not line.startswith("3 1 ")]
    journal.write_text("\n".join(kept))


def _break_off(left: Run) -> None:
    journal = left.folder / "journal"
    journal.write_text(journal.read_text().replace(f"3 1 end {PID} 2\n", ""))


def _forget_a_line(left: Run) -> None:
    carry_out(left.system, Move(job_id=3, to="inactive"), Start(job_id=3, worker=WORKER))
    carry_out(left.system, Complete(job_id=3, attempt=2))
    left.attempt(3, 2, begin_ns=10, end_ns=11)


def _rewrite(left: Run) -> None:
    tamper(left.system, "UPDATE ledger_events SET actor = 'another' WHERE position = 1")


def _answer_otherwise(left: Run) -> None:
    left.client.faults.append("GET /stats was answered: 500")


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (_lose, ["lost", "told another id"]),
        (_create_twice, ["double"]),
        (_create_what_nobody_asked_for, ["of nobody"]),
        (_tell_another_id, ["told another id"]),
        (_move, ["in another state"]),
        (_refuse_what_exists, ["produced otherwise than told"]),
        (_create_what_does_not_exist, ["produced otherwise than told"]),
        (_create_half, ["produced otherwise than told"]),
        (_leave, ["produced otherwise than told", "stuck"]),
        (_leave_active, ["jobs that did not end as they should", "broken off", "stuck"]),
        (_work_at_once, ["attempts at once"]),
        (_work_without_a_claim, ["attempts of no worker"]),
        (_claim_without_work, ["never made"]),
        (_break_off, ["broken off"]),
        (_forget_a_line, ["without all their lines"]),
        (_rewrite, ["verify"]),
        (_answer_otherwise, ["GET /stats was answered"]),
    ],
)
def test_whatever_does_not_hold_is_found(
    left: Run, spoil: Callable[[Run], None], found: list[str]
) -> None:
    spoil(left)

    assert left.faults() == found
