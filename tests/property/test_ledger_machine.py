"""Drive the real ledger with everything that can be asked, and compare it with a model.

The model is a second, naive ledger: lists and dicts, no table of transitions of the
ledger's, none of its ``decide`` and ``evolve``.  It says for each command what must be
recorded or how it must be refused (``answer``), and what a stored row makes of a job
(``follow``).
"""

import hashlib
import json
import struct
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import floor
from typing import Any, ClassVar, Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import bindparam, text

from ledger.errors import AttemptOver, InvalidInput, JobNotFound, LedgerError, Refused
from ledger.log.answers import Answer, Outcome
from ledger.log.batch import Submission
from ledger.processes.composition import System
from ledger.projections.follower import catch_up
from ledger.projections.models.job_json import Frame
from ledger.projections.models.job_runs import JobList
from ledger.projections.rebuild.build import Build
from ledger.projections.rebuild.rebuild import rebuild
from ledger.projections.report import MOST_DIFFERENCES, Difference
from ledger.rules.commands import (
    Command,
    Complete,
    Create,
    Elapse,
    Erase,
    FailAttempt,
    Log,
    Lose,
    Move,
    OnJob,
    Progress,
    Remove,
    Reprioritize,
    Return,
    Start,
)
from ledger.rules.job import LIVE_STATES, State
from tests import strategies
from tests.builders import (
    PERMITTED,
    Clock,
    job_in,
    open_system,
    rows,
    shown_ids,
    silently,
    verified,
)
from tests.property.arenas import WITHOUT_PAUSES, Arena
from tests.strategies import Target, Words

Job = dict[str, Any]
Row = dict[str, Any]
Body = dict[str, Any]

LIVE: Final = ("inactive", "complete", "active", "failed", "delayed")
LARGEST_WAIT_MS: Final = 2**53 - 1
ENVELOPE: Final = (
    "position, job_id, version, kind, schema, at_ms, actor, cause, body, content, salt, "
    "digest, chain"
)


# --- the model: what a command must cause ----------------------------------------


@dataclass
class Said:
    """An event that must be recorded: its kind, its body without defaults, its content."""

    kind: str
    body: Body = field(default_factory=dict)
    content: str | None = None


def said(kind: str, content: str | None = None, /, **body: object) -> Said:
    """Return the event; a field that is None is not written."""
    return Said(kind, {name: value for name, value in body.items() if value is not None}, content)


def creation(command: Create, now_ms: int) -> Said:
    backoff = command.backoff
    return said(
        "created",
        command.data,
        type=command.type,
        priority=command.priority or None,
        attempts=command.attempts if command.attempts != 1 else None,
        delay_ms=command.delay_ms,
        promote_at_ms=now_ms + command.delay_ms if command.delay_ms else None,
        ttl_ms=command.ttl_ms,
        backoff=backoff
        and {
            name: value
            for name, value in (
                ("type", backoff.type),
                ("delay_ms", backoff.delay_ms or None),
                ("max_delay_ms", backoff.max_delay_ms),
            )
            if value is not None
        },
        remove_on_complete=command.remove_on_complete or None,
        search_keys=command.search_keys and list(command.search_keys),
        unique=command.unique,
    )


def answer(  # noqa: C901, PLR0911, PLR0912 - a clause a command
    command: OnJob, job: Job, now_ms: int
) -> list[Said] | type[LedgerError]:
    """Return what *command* must cause, or how it must be refused."""
    state = job["state"]
    gone = state in {"absent", "removed"}
    expires = now_ms + job["ttl_ms"] if not gone and job["ttl_ms"] else None
    match command:
        case Elapse():
            if gone or job["due_at_ms"] is None or job["due_at_ms"] > now_ms:
                return []
            if state == "delayed":
                return [said("promoted")]
            return [failure(job, now_ms, '"TTL exceeded"', reason="ttl")]
        case Lose(attempt=attempt, worker=worker, silent_ms=silent_ms):
            if gone or (state, job["attempt"], job["worker"]) != ("active", attempt, worker):
                return []
            error = f'"worker {worker} was lost: silent for {silent_ms} ms"'
            return [failure(job, now_ms, error, reason="lost")]
        case Erase(versions=versions, reason=reason):
            if state == "absent":
                return JobNotFound
            if any(not 1 <= version <= job["version"] for version in versions or ()):
                return InvalidInput
            named = None if versions is None else list(versions)
            return [said("erased", versions=named, reason=reason)]
        case _ if gone:
            return JobNotFound
        case Progress() | Log() | Complete() | FailAttempt() | Return():
            if state == "active" and command.attempt == job["attempt"]:
                return spoken(command, job, now_ms, expires)
            return AttemptOver if command.attempt <= job["attempt"] else Refused
        case Start(worker=worker):
            if state != "inactive":
                return Refused
            number = job["attempt"] + 1
            return [said("started", attempt=number, worker=worker, expires_at_ms=expires)]
        case Move(to=to) if to == "active" and state != "active":
            number = job["attempt"] + 1
            return [said("moved", to=to, attempt=number, expires_at_ms=expires)]
        case Move(to=to):
            return [said("moved", to=to)] if to != state else []
        case Reprioritize(priority=priority):
            return [said("reprioritized", priority=priority)] if priority != job["priority"] else []
        case Remove():
            return [said("removed")]
    raise AssertionError(command)


def spoken(
    command: Progress | Log | Complete | FailAttempt | Return,
    job: Job,
    now_ms: int,
    expires: int | None,
) -> list[Said]:
    """Return what a word about the running attempt must cause."""
    match command:
        case Progress(attempt=attempt, progress=progress, data=data):
            return [
                said(
                    "progressed",
                    data,
                    attempt=attempt,
                    progress=progress,
                    expires_at_ms=expires,
                    has_data=data is not None or None,
                )
            ]
        case Log(attempt=attempt, line=line):
            return [said("logged", line, attempt=attempt)]
        case Complete(attempt=attempt, result=result):
            # An attempt that an operator began was never started by anyone.
            by_worker = job["started_attempt"] == attempt
            took_ms = max(0, now_ms - job["started_at_ms"]) if by_worker else None
            completed = said("completed", result, attempt=attempt, duration_ms=took_ms)
            if job["remove_on_complete"]:
                return [completed, said("removed", reason="complete")]
            return [completed]
        case Return(attempt=attempt, reason=reason):
            return [said("returned", attempt=attempt, reason=reason)]
        case FailAttempt(error=error, retry_after_ms=after_ms, final=final):
            return [failure(job, now_ms, error, after_ms=after_ms, final=final)]


def failure(
    job: Job,
    now_ms: int,
    error: str,
    *,
    reason: str | None = None,
    after_ms: int | None = None,
    final: bool = False,
) -> Said:
    made = min(job["made"] + 1, job["max_attempts"])
    if final or made == job["max_attempts"]:
        return said("failed", error, attempt=job["attempt"], next="failed", reason=reason)
    wait_ms = backoff_wait_ms(job, made) if after_ms is None else after_ms
    if not wait_ms:
        return said("failed", error, attempt=job["attempt"], next="inactive", reason=reason)
    return said(
        "failed",
        error,
        attempt=job["attempt"],
        next="delayed",
        reason=reason,
        delay_ms=wait_ms,
        promote_at_ms=now_ms + wait_ms,
    )


def backoff_wait_ms(job: Job, made: int) -> int:
    """Return Kue's wait, in its own words and exact fractions."""
    delay, most = Fraction(job["backoff_delay_ms"]), job["backoff_max_ms"]
    match job["backoff"]:
        case "repeat":
            wait = Fraction(job["delay_ms"] or 0)
        case "fixed":
            wait = delay
        case "exponential":
            wait = delay / 2 * (2**made - 1)
            if most is not None:
                wait = min(wait, most - delay / 2)
        case _:
            wait = Fraction(0)
    return max(0, min(floor(wait + Fraction(1, 2)), LARGEST_WAIT_MS))


# --- the model: what a stored event makes of a job -------------------------------


def unborn(job_id: int) -> Job:
    return {"id": job_id, "version": 0, "state": "absent", "attempt": 0}


def follow(job: Job, row: Row) -> Job:  # noqa: C901, PLR0912 - a clause an event
    """Return the job as it is after the stored event *row*."""
    body, at_ms, position = json.loads(row["body"]), row["at_ms"], row["position"]
    changes: Job = {}
    state = job["state"]
    match row["kind"]:
        case "created":
            state, changes = newborn(body, at_ms, position)
        case "started":
            state = "active"
            changes = {
                "attempt": body["attempt"],
                "started_attempt": body["attempt"],
                "worker": body.get("worker"),
                "started_at_ms": at_ms,
                "due_at_ms": body.get("expires_at_ms"),
            }
        case "progressed":
            changes = {"progress": body["progress"], "due_at_ms": body.get("expires_at_ms")}
            if row["digest"] is not None:
                changes["progress_position"] = position
        case "completed":
            state = "complete"
            changes = {
                "made": min(job["made"] + 1, job["max_attempts"]),
                "progress": 100,
                "duration_ms": body.get("duration_ms"),
                "due_at_ms": None,
                "result_position": position,
            }
        case "failed":
            state = body["next"]
            changes = {
                "made": min(job["made"] + 1, job["max_attempts"]),
                "failed_at_ms": at_ms,
                "due_at_ms": None,
                "error_position": position,
            }
            if state == "delayed":
                changes["delay_ms"] = body["delay_ms"]
                changes["promote_at_ms"] = changes["due_at_ms"] = body["promote_at_ms"]
        case "promoted" | "returned":
            state, changes = "inactive", {"due_at_ms": None}
        case "moved":
            state, changes = body["to"], {"due_at_ms": None}
            if state == "delayed":
                changes["due_at_ms"] = job["promote_at_ms"]
            elif state == "active":
                changes["attempt"] = body["attempt"]
                changes["due_at_ms"] = body.get("expires_at_ms")
        case "reprioritized":
            changes = {"priority": body["priority"]}
        case "removed":
            state, changes = "removed", {"due_at_ms": None}
        case "logged" | "erased":
            pass
    assert state in PERMITTED[job["state"]].get(row["kind"], ()), (job["state"], row["kind"])
    return job | {"state": state, "version": row["version"], "updated_at_ms": at_ms} | changes


def newborn(body: Body, at_ms: int, position: int) -> tuple[str, Job]:
    backoff = body.get("backoff") or {}
    return "delayed" if "delay_ms" in body else "inactive", {
        "type": body["type"],
        "priority": body.get("priority", 0),
        "max_attempts": body.get("attempts", 1),
        "made": 0,
        "started_attempt": 0,
        "delay_ms": body.get("delay_ms"),
        "ttl_ms": body.get("ttl_ms"),
        "backoff": backoff.get("type"),
        "backoff_delay_ms": backoff.get("delay_ms", 0),
        "backoff_max_ms": backoff.get("max_delay_ms"),
        "remove_on_complete": int(body.get("remove_on_complete", False)),
        "worker": None,
        "progress": None,
        "created_at_ms": at_ms,
        "promote_at_ms": body.get("promote_at_ms", at_ms),
        "failed_at_ms": None,
        "started_at_ms": None,
        "duration_ms": None,
        "due_at_ms": body.get("promote_at_ms"),
        "data_position": position,
        "result_position": None,
        "error_position": None,
        "progress_position": None,
    }


def replayed(stored: Sequence[Row]) -> dict[int, Job]:
    """Return all jobs, removed ones too, as *stored* makes them from nothing."""
    jobs: dict[int, Job] = {}
    for row in stored:
        jobs[row["job_id"]] = follow(jobs.get(row["job_id"]) or unborn(row["job_id"]), row)
    return jobs


def seen(jobs: Mapping[int, Job]) -> list[Job]:
    """Return the jobs that are in view, by age."""
    return [job for _, job in sorted(jobs.items()) if job["state"] in LIVE]


class Model:
    """The naive ledger: the rows that must be stored, and the state that they result in."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.jobs: dict[int, Job] = {}
        self.keys: dict[str, int] = {}
        self.at_ms = 0
        # Positions whose content somebody took away, and no event says so.
        self.wiped: set[int] = set()

    def targets(self) -> list[Target]:
        return [
            Target(job["id"], job["state"], job["attempt"], job["version"])
            for job in self.jobs.values()
        ]

    def hand_in(self, words: Words, now_ms: int) -> list[list[Said] | type[LedgerError]]:
        """Carry out what one caller asks; return what must be answered."""
        before = list(self.rows), dict(self.jobs), dict(self.keys), self.at_ms, set(self.wiped)
        at_ms = max(now_ms, self.at_ms)
        answers = [self._carry_out(command, words, now_ms, at_ms) for command in words.commands]
        if words.atomic and any(isinstance(given, type) for given in answers):
            self.rows, self.jobs, self.keys, self.at_ms, self.wiped = before
        return answers

    def _carry_out(
        self, command: Command, words: Words, now_ms: int, at_ms: int
    ) -> list[Said] | type[LedgerError]:
        if isinstance(command, Create):
            if command.unique in self.keys:
                return []
            job_id = len(self.jobs) + 1
            caused: list[Said] | type[LedgerError] = [creation(command, now_ms)]
            if command.unique is not None:
                self.keys[command.unique] = job_id
        else:
            assert isinstance(command, OnJob)
            job_id = command.job_id
            caused = answer(command, self.jobs.get(job_id) or unborn(job_id), now_ms)
        if isinstance(caused, list):
            for event in caused:
                self._record(job_id, event, words, at_ms)
        return caused

    def _record(self, job_id: int, event: Said, words: Words, at_ms: int) -> None:
        job = self.jobs.get(job_id) or unborn(job_id)
        row: Row = {
            "position": len(self.rows) + 1,
            "job_id": job_id,
            "version": job["version"] + 1,
            "kind": event.kind,
            "schema": 1,
            "at_ms": at_ms,
            "actor": words.actor,
            "cause": words.cause,
            "body": json.dumps(event.body),
            "content": event.content,
            "digest": event.content and "some",
        }
        self.jobs[job_id] = follow(job, row)
        self.rows.append(row)
        self.at_ms = at_ms
        if event.kind == "erased":
            versions = event.body.get("versions", range(1, row["version"]))
            covered = [
                earlier["position"]
                for earlier in self.rows
                if earlier["job_id"] == job_id and earlier["version"] in versions
            ]
            self._empty(covered)
            self.wiped.difference_update(covered)

    def wipe(self, positions: Iterable[int]) -> None:
        """Take the content of the events at *positions* away, as no command does."""
        there = [each for each in positions if self.rows[each - 1]["content"] is not None]
        self._empty(there)
        self.wiped.update(there)

    def _empty(self, positions: Iterable[int]) -> None:
        for position in positions:
            self.rows[position - 1] = self.rows[position - 1] | {"content": None}


def shown(job: Job, content: Mapping[int, str | None]) -> dict[str, Any]:
    """Return the job as people see it, in Kue's words."""
    texts = {
        name: content.get(job[f"{name}_position"])
        for name in ("data", "result", "error", "progress")
    }
    times = {
        name: None if job[column] is None else str(job[column])
        for name, column in (
            ("created_at", "created_at_ms"),
            ("promote_at", "promote_at_ms"),
            ("updated_at", "updated_at_ms"),
            ("failed_at", "failed_at_ms"),
            ("started_at", "started_at_ms"),
            ("duration", "duration_ms"),
            ("delay", "delay_ms"),
            ("ttl", "ttl_ms"),
        )
    }
    made, most = job["made"], job["max_attempts"]
    view = {
        "id": str(job["id"]),
        "type": job["type"],
        "data": json.loads(texts["data"] or "{}"),
        "result": json.loads(texts["result"]) if texts["result"] else None,
        "priority": job["priority"],
        "progress": 0 if job["progress"] is None else str(job["progress"]),
        "progress_data": json.loads(texts["progress"]) if texts["progress"] else None,
        "state": job["state"],
        "error": json.loads(texts["error"]) if texts["error"] else None,
        "workerId": job["worker"],
        "attempts": {"made": made, "remaining": most - made, "max": most},
    } | times
    null = {"data"} | {
        name
        for name in ("result", "progress_data")
        if view[name] is None and texts[name.partition("_")[0]] == "null"
    }
    return {name: value for name, value in view.items() if value is not None or name in null}


# --- an independent reading of the chain -----------------------------------------


def chain_of(stored: Sequence[Row]) -> list[bytes]:
    """Return the chain values of *stored*, by the words of the design."""
    link = bytes(32)
    links = []
    for row in stored:
        leaf = b"\x00"
        for name in (
            "position", "job_id", "version", "kind", "schema", "at_ms", "actor", "cause",
            "body", "digest",
        ):  # fmt: skip
            value = row[name]
            if value is None:
                leaf += b"\xff" * 8
            else:
                raw = bytes(value) if name == "digest" else str(value).encode()
                leaf += struct.pack(">Q", len(raw)) + raw
        link = hashlib.sha256(b"\x01" + link + hashlib.sha256(leaf).digest()).digest()
        links.append(link)
    return links


# --- the machine -----------------------------------------------------------------


disturbances = st.sampled_from(
    (*("nothing",) * 4, "restart", "rebuild", "begin a rebuild", "catch up", "wipe", "verify")
)


class LedgerMachine(RuleBasedStateMachine):
    """Hand in what callers may hand in; after every step compare all there is."""

    arena: ClassVar[Arena]

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.clock = Clock()

    @initialize(data=st.data())
    def open(self, data: st.DataObject) -> None:
        """Begin with some jobs, as an empty ledger is quickly known."""
        self.url = self.arena.fresh()
        self.system = self._opened()
        created = data.draw(st.lists(strategies.creations, max_size=4), label="created")
        self._submit([Words(created, "token:ann", None, atomic=False)])

    def _opened(self) -> System:
        return open_system(self.url, self.clock, search_directory=self.arena.search)

    @rule(data=st.data(), first=disturbances)
    def hand_in(self, data: st.DataObject, first: str) -> None:
        """Hand in what several callers ask, as one group-commit batch."""
        self._disturb(first, data)
        self._submit(data.draw(strategies.submissions(self.model.targets()), label="submissions"))

    @rule(data=st.data(), first=disturbances)
    @precondition(lambda self: self.model.jobs)
    def go_on(self, data: st.DataObject, first: str) -> None:
        """Take a job some of its usual next steps, so that jobs get old."""
        self._disturb(first, data)
        job_id = data.draw(st.sampled_from(sorted(self.model.jobs)), label="job")
        for _ in range(data.draw(st.integers(1, 4), label="steps")):
            job = self.model.jobs[job_id]
            target = Target(job_id, job["state"], job["attempt"], job["version"])
            command = data.draw(strategies.next_step(target), label="command")
            self._submit([Words([command], "worker:host:1:2", None, atomic=False)])
            self.everything_is_as_the_model_says()

    @rule(by_ms=strategies.clock_steps_ms)
    def let_time_pass(self, by_ms: int) -> None:
        """Move the clock, also backwards, and let time take effect as the sweeper does."""
        self.clock.now_ms = max(0, self.clock.now_ms + by_ms)
        now_ms = self.clock.now_ms
        with self.system.database.read() as connection:
            due = self.system.jobs.due(connection, now_ms=now_ms, limit=100)

        self._submit([Words([Elapse(job_id=i) for i in due], "sweeper", None, atomic=False)])

        assert sorted(due) == sorted({row["job_id"] for row in self.model.rows[self.known :]})
        late = [job for job in seen(self.model.jobs) if (job["due_at_ms"] or now_ms + 1) <= now_ms]
        assert late == []

    def _disturb(self, how: str, data: st.DataObject) -> None:
        """Do what must change nothing that anyone sees but erased content."""
        match how:
            case "restart":
                self.system.close()
                self.system = self._opened()
            case "rebuild":
                models = list(self.system.models.values())
                done = rebuild(self.system.database, models, silently, steps=WITHOUT_PAUSES)
                assert done == len(self.model.rows)
                assert self.system.activity.checkpoint() == done
            case "catch up":
                catch_up(self.system.database, self.system.activity, batch=3)
            case "begin a rebuild":
                # And leave it, for a later one to go on with.
                build = Build(self.system.database, self.system.projections, steps=WITHOUT_PAUSES)
                build.begin()
                half = (build.checkpoint() + len(self.model.rows)) // 2
                catch_up(self.system.database, build, batch=2, through=half)
            case "wipe" if self.model.rows:
                positions = st.sets(st.integers(1, len(self.model.rows)), min_size=1, max_size=5)
                self._wipe(data.draw(positions, label="wiped"))
                self._verify()
            case "verify":
                self._verify()
        if how != "nothing":
            self.everything_is_as_the_model_says()

    def _submit(self, batch: Sequence[Words]) -> None:
        """Hand in the batch to the ledger and to the model, and compare their answers."""
        self.known = len(self.model.rows)
        ledger = self.system.ledger
        if len(batch) == 1:
            (words,) = batch
            given = [
                ledger.submit(
                    words.commands, actor=words.actor, cause=words.cause, atomic=words.atomic
                )
            ]
        else:
            given = ledger._append(lambda: [Submission(**words._asdict()) for words in batch])
        for words, answers in zip(batch, given, strict=True):
            self._compare(words, answers, self.model.hand_in(words, self.clock.now_ms))

    def _verify(self) -> None:
        """Show that exactly what was taken away is missed, and nothing else differs."""
        report = verified(self.system)
        gone = [row for row in self.model.rows if row["digest"] and row["content"] is None]
        assert [each.where for each in report.differences] == [
            f"event {position}" for position in sorted(self.model.wiped)
        ][:MOST_DIFFERENCES]
        assert (report.position, report.erased) == (
            len(self.model.rows),
            len(gone) - len(self.model.wiped),
        )

    def _wipe(self, positions: Collection[int]) -> None:
        """Take content away directly in the table, which the triggers allow."""
        with self.system.database.write() as tx:
            tx.execute(
                text(
                    "UPDATE ledger_events SET content = NULL, salt = NULL WHERE position IN "
                    ":positions"
                ).bindparams(bindparam("positions", expanding=True)),
                {"positions": sorted(positions)},
            )
        self.model.wipe(positions)

    def _compare(
        self,
        words: Words,
        given: Sequence[Answer],
        expected: Sequence[list[Said] | type[LedgerError]],
    ) -> None:
        assert len(given) == len(expected) == len(words.commands)
        refused = words.atomic and any(isinstance(wanted, type) for wanted in expected)
        for answered, wanted in zip(given, expected, strict=True):
            if isinstance(wanted, type):
                assert type(answered) is wanted
                assert str(answered)
            else:
                assert isinstance(answered, Outcome)
                assert refused or [event.kind for event in answered.events] == [
                    event.kind for event in wanted
                ]

    # --- what holds after every step

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        stored = rows(self.system, f"SELECT {ENVELOPE} FROM ledger_events ORDER BY position")  # noqa: S608
        jobs = seen(replayed(stored))

        self._check_history(stored)
        self._check_chain(stored)
        self._check_read_models(stored, jobs)
        self._check_lists(stored, jobs)

    def _check_history(self, stored: Sequence[Row]) -> None:
        """Show that nothing is stored but what was acknowledged, and in order."""
        versions = Counter[int]()
        for position, row in enumerate(stored, start=1):
            versions[row["job_id"]] += 1
            assert (row["position"], row["version"]) == (position, versions[row["job_id"]])
        times = [row["at_ms"] for row in stored]
        assert times == sorted(times)
        assert [_comparable(row) for row in stored] == [_comparable(row) for row in self.model.rows]

    def _check_chain(self, stored: Sequence[Row]) -> None:
        links = chain_of(stored)
        assert [row["chain"] for row in stored] == links
        assert rows(self.system, "SELECT position, chain, last_job_id, at_ms FROM ledger_head") == [
            {
                "position": len(stored),
                "chain": links[-1] if links else bytes(32),
                "last_job_id": len(self.model.jobs),
                "at_ms": self.model.at_ms,
            }
        ]
        for row in stored:
            if row["content"] is not None:
                committed = hashlib.sha256(row["salt"] + row["content"].encode()).digest()
                assert (len(row["salt"]), committed) == (16, row["digest"])

    def _check_read_models(self, stored: Sequence[Row], jobs: Sequence[Job]) -> None:
        table = rows(self.system, "SELECT * FROM ledger_jobs ORDER BY id")
        assert [
            {name: value for name, value in row.items() if name not in Frame._fields}
            for row in table
        ] == jobs
        bodies = [(row["job_id"], json.loads(row["body"])) for row in stored]
        took_ms = {
            type_: sum(
                body.get("duration_ms", 0)
                for row, (job_id, body) in zip(stored, bodies, strict=True)
                if row["kind"] == "completed" and type_ in {"", self.model.jobs[job_id]["type"]}
            )
            for type_ in {"", *(job["type"] for job in self.model.jobs.values())}
        }
        counted = Counter((type_, job["state"]) for job in jobs for type_ in ("", job["type"]))
        stored_counts = rows(
            self.system, "SELECT * FROM ledger_state_counts WHERE jobs != 0 OR work_ms != 0"
        )
        assert sorted(stored_counts, key=lambda row: (row["type"], row["state"])) == [
            {"type": type_, "state": state, "jobs": counted[type_, state], "work_ms": work_ms}
            for type_ in sorted(took_ms)
            for state in sorted(LIVE)
            for work_ms in (took_ms[type_] if state == "complete" else 0,)
            if counted[type_, state] or work_ms
        ]
        assert rows(self.system, "SELECT key, job_id FROM ledger_unique_keys ORDER BY job_id") == [
            {"key": body["unique"], "job_id": job_id} for job_id, body in bodies if "unique" in body
        ]

    def _check_lists(self, stored: Sequence[Row], jobs: Sequence[Job]) -> None:
        content = {row["position"]: row["content"] for row in stored}
        with self.system.database.read() as connection:
            stats = self.system.state_counts.stats(connection)
            page = self.system.jobs.lists.page(connection, JobList(), 0, 99)
            by_state = {
                state: self.system.jobs.lists.page(
                    connection, JobList(state), 0, 99, by_priority=True
                )
                for state in LIVE_STATES
                # Of the empty ones, one: each costs a query at every step.
                if state in {State.FAILED, *(job["state"] for job in jobs)}
            }
        counted = Counter(job["state"] for job in jobs)
        assert stats[:2] == (len(stored), {state: counted[state] for state in LIVE})
        assert page.position == len(stored)
        assert json.loads(page.json) == [shown(job, content) for job in jobs]
        ordered = sorted(jobs, key=lambda job: (job["priority"], job["id"]))
        assert {state: shown_ids(page) for state, page in by_state.items()} == {
            state: [job["id"] for job in ordered if job["state"] == state] for state in by_state
        }

    # --- and at the end

    def teardown(self) -> None:
        """With all content erased, everything still verifies and can be built anew."""
        if not hasattr(self, "system"):
            return
        try:
            self._verify()
            erase = [Erase(job_id=job_id) for job_id in sorted(self.model.jobs) if job_id]
            self._submit([Words(erase, "cli:dpo", None, atomic=False)])
            before = self._read_models()
            assert rows(self.system, "SELECT 1 FROM ledger_events WHERE content IS NOT NULL") == []
            self._verify()
            told: list[Difference] = []
            models = list(self.system.models.values())
            rebuild(
                self.system.database,
                models,
                silently,
                differs=told.append,
                steps=WITHOUT_PAUSES,
            )

            assert self.model.wiped == set()
            assert told == []
            assert self._read_models() == before
            self._verify()
        finally:
            self.system.close()

    def _read_models(self) -> list[list[Row]]:
        return [
            rows(self.system, query)
            for query in (
                "SELECT * FROM ledger_jobs ORDER BY id",
                (
                    "SELECT * FROM ledger_job_runs WHERE jobs != 0 ORDER BY type, state, "
                    "priority_span, id_span, priority_run, id_run"
                ),
                (
                    "SELECT * FROM ledger_state_counts WHERE jobs != 0 OR work_ms != 0 ORDER BY "
                    "type, state"
                ),
                "SELECT * FROM ledger_unique_keys ORDER BY key",
            )
        ]


def _comparable(row: Row) -> Row:
    """Return the row with its body parsed, and of the digest only whether there is one."""
    kept = {name: row[name] for name in ENVELOPE.split(", ")[:8]} | {"content": row["content"]}
    return kept | {"body": json.loads(row["body"]), "committed": row["digest"] is not None}


def test_the_ledger_is_what_its_history_says(arena: Arena) -> None:
    run_ledger_machine(arena, examples=6)


def run_ledger_machine(arena: Arena, *, examples: int) -> None:
    """Run the machine on the databases of *arena*; tests/soak runs it for longer."""
    here = arena

    class OnThisEngine(LedgerMachine):
        arena = here

    profile = settings(max_examples=examples, stateful_step_count=20)
    run_state_machine_as_test(OnThisEngine, settings=profile)


def every_command(job_id: int, attempt: int) -> dict[str, Command]:
    """Return a command for each kind of event, as favourable as it can be."""
    return {
        "started": Start(job_id=job_id),
        "progressed": Progress(job_id=job_id, attempt=attempt, progress=1),
        "logged": Log(job_id=job_id, attempt=attempt, line='""'),
        "completed": Complete(job_id=job_id, attempt=attempt),
        "failed": FailAttempt(job_id=job_id, attempt=attempt, error='""'),
        "moved": Move(job_id=job_id, to="failed"),
        "reprioritized": Reprioritize(job_id=job_id, priority=7),
        "removed": Remove(job_id=job_id),
        "erased": Erase(job_id=job_id),
    }


def test_every_step_that_is_not_permitted_is_refused_without_a_trace(system: System) -> None:
    job_ids = {state: job_in(system, state) for state in PERMITTED if state != "absent"}
    refused = [
        command
        for state in PERMITTED
        for kind, command in every_command(job_ids.get(state, 77), attempt=1).items()
        if kind not in PERMITTED[state]
    ]
    before = rows(system, "SELECT * FROM ledger_head"), rows(system, "SELECT * FROM ledger_events")

    answers = system.ledger.submit(refused, actor="test")

    assert [(type(given), str(given)) for given in answers if not isinstance(given, Refused)] == []
    assert all(str(given) for given in answers)
    after = rows(system, "SELECT * FROM ledger_head"), rows(system, "SELECT * FROM ledger_events")
    assert after == before
