"""What happened outside HTTP while Kue was recorded: work, time, jobs created off the record."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import pytest

from ledger.errors import LedgerError
from ledger.processes.composition import System
from ledger.rules.commands import (
    Complete,
    Create,
    Elapse,
    FailAttempt,
    Log,
    Progress,
    Remove,
    Start,
)
from tests.builders import Clock

_STACK: Final = "\n    at handle (kue_worker.js:{at})\n    at Worker.<anonymous> (worker.js:230:7)"
BOOM: Final = "Error: boom: no reason" + _STACK.format(at="27:30")
DISK_FULL: Final = "Error: boom: disk full" + _STACK.format(at="27:30")
FLAKY: Final = "Error: flaky attempt 1" + _STACK.format(at="35:14")


class Stage:
    """The workers and the clock of a section."""

    def __init__(self, system: System, clock: Clock) -> None:
        self._ledger = system.ledger
        self._clock = clock
        self._attempts: dict[int, int] = {}

    def start(self, job_id: int) -> None:
        self._ledger.execute(Start(job_id=job_id, worker="worker:host:1:1"), actor="test")
        self._attempts[job_id] = self._attempts.get(job_id, 0) + 1

    def progress(self, job_id: int, progress: int, data: Any) -> None:
        attempt = self._attempts[job_id]
        text = json.dumps(data)
        command = Progress(job_id=job_id, attempt=attempt, progress=progress, data=text)
        self._ledger.execute(command, actor="test")

    def log(self, job_id: int, *lines: str) -> None:
        for line in lines:
            command = Log(job_id=job_id, attempt=self._attempts[job_id], line=json.dumps(line))
            self._ledger.execute(command, actor="test")

    def complete(self, job_id: int, *result: Any) -> None:
        attempt = self._attempts[job_id]
        text = json.dumps(result[0]) if result else None
        command = Complete(job_id=job_id, attempt=attempt, result=text)
        self._ledger.execute(command, actor="test")

    def fail(self, job_id: int, error: str) -> None:
        attempt = self._attempts[job_id]
        command = FailAttempt(job_id=job_id, attempt=attempt, error=json.dumps(error))
        self._ledger.execute(command, actor="test")

    def wait(self, ms: int) -> None:
        self._clock.now_ms += ms

    def elapse(self, *job_ids: int) -> None:
        for job_id in job_ids:
            self._ledger.execute(Elapse(job_id=job_id), actor="sweeper")

    def run_ok(self, job_id: int) -> None:
        self.start(job_id)
        starting = f"starting email number {job_id}"
        self.log(job_id, starting, "{ key: 'some key', value: 10 }", "[ 1, 2, 3 ]")
        self.progress(job_id, 50, {"stage": "two", "of": 3})
        self.complete(job_id, {"sent": True, "n": 1})

    def run_badly(self, job_id: int, error: str = BOOM) -> None:
        self.start(job_id)
        self.fail(job_id, error)

    def hang(self, job_id: int) -> None:
        self.start(job_id)
        self.progress(job_id, 40, "half way as a string")
        self.log(job_id, "hanging")

    def create(self, **data: Any) -> None:
        self._ledger.execute(Create(type="email", data=json.dumps(data)), actor="test")

    def remove(self, job_id: int) -> None:
        self._ledger.execute(Remove(job_id=job_id), actor="test")

    def finish_too_late(self, job_id: int) -> None:
        with pytest.raises(LedgerError, match="doesnt exist"):
            self.complete(job_id, "slow done")


def _the_worker_comes_up(stage: Stage) -> None:
    for job_id in (15, 16, 17):
        stage.hang(job_id)
    stage.start(22)
    stage.run_ok(1)
    stage.start(2)
    stage.complete(2)
    for job_id, result in ((3, "text"), (4, 42), (5, 0), (6, [1, {"a": None}])):
        stage.start(job_id)
        stage.complete(job_id, result)
    stage.run_badly(7, DISK_FULL)
    stage.run_badly(8, "plain string failure")
    stage.run_badly(9, "object failure")
    stage.run_badly(10)
    stage.run_badly(10)
    stage.run_badly(11, FLAKY)
    stage.start(11)
    stage.complete(11, {"tries": 2})
    stage.run_badly(12)
    stage.run_badly(13)
    stage.run_ok(18)
    stage.run_badly(19)


def _their_first_waits_are_over(stage: Stage) -> None:
    stage.wait(1_500)
    stage.elapse(12, 13, 14, 16, 17)
    stage.run_badly(12)
    stage.run_badly(13)
    stage.run_badly(14)
    stage.hang(17)


def _all_waits_are_over(stage: Stage) -> None:
    stage.wait(3_000)
    stage.elapse(12, 13, 14, 17, 20)
    stage.run_badly(12)
    stage.run_badly(13)
    stage.run_badly(14)
    stage.run_ok(20)
    stage.complete(22, "slow done")


def _jobs_to_search(stage: Stage) -> None:
    """Create the twelve jobs whose creation was not recorded, with titles that searches found."""
    for title in (
        "welcome email for tj@learnboost.com",
        "video converting",
        "running shoes",
        "night train",
        "naïve café",
        "AB 99.95",
        "note",
        "a note",
        "nite owl",
        "digest email",
        "digest of a nested submarine",
        "visible pelican",
    ):
        stage.create(title=title)


# Actions before a record, by the record's number.
PREPARED: Final[Mapping[int, Callable[[Stage], None]]] = {
    311: _the_worker_comes_up,
    317: _their_first_waits_are_over,
    319: _all_waits_are_over,
    372: lambda stage: stage.run_badly(7, DISK_FULL),
    375: lambda stage: stage.run_ok(1),
    378: lambda stage: stage.run_ok(21),
    380: lambda stage: stage.hang(15),
    382: lambda stage: stage.start(23),
    386: lambda stage: stage.finish_too_late(23),
    574: _jobs_to_search,
    585: lambda stage: stage.create(title="weasel"),
    685: lambda stage: stage.remove(10),
}
