"""Kill workers again and again while they work: no job is lost, and none is done twice at once.

Handlers write down when they begin and end an attempt, in a file to which all
processes append.  Afterwards the file and the ledger must tell the same story.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

from ledger.processes.composition import System
from ledger.rules.commands import Create
from ledger.rules.events import Backoff
from tests.builders import rows, verified
from tests.integration.servers import is_running, is_stopped, kill_group, surroundings, wait_until
from tests.integration.test_crashes import chance

PROCESSES: Final = 2
MOST_ATTEMPTS: Final = 5
LONGEST_MS: Final = 80
KILL_EVERY_S: Final = 1.0
FEWEST_KILLS: Final = 3
LEASE_MS: Final = 2_000
PATIENCE_S: Final = 300.0

# The application, and a nursery: a process that has all imported and forks a worker for
# each line it reads, as starting anew takes longer than a worker lives here.  A line of
# the journal is one write, so that those of several processes never mix.
NURSERY: Final = """
import os
import signal
import sys
import time
from random import Random

import ledger
import ledger.processes.composition
from ledger.worker.sweeper import Sweeper
from ledger.worker.worker import Worker

# The clock of this machine is wrong, and jumps.
real_ns = time.time_ns
wrong_by_s = Random()
time.time_ns = lambda: real_ns() + wrong_by_s.choice((0, -40, 40, -3_600, 3_600)) * 10**9
time.time = lambda: time.time_ns() / 10**9

journal = os.open("journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(job, what):
    words = job.id, job.attempt, what, os.getpid(), time.monotonic_ns()
    os.write(journal, (" ".join(map(str, words)) + "\\n").encode())


def handle(job):
    note(job, "begin")
    try:
        job.log("attempt %d begins", job.attempt)
        time.sleep(job.data["ms"] / 1000)
        job.progress(1, 2, {"attempt": job.attempt})
        job.log("attempt %d ends", job.attempt)
        if Random(f"{job.id} {job.attempt}").random() < 0.2:
            raise ValueError("by chance")
        return job.attempt
    finally:
        note(job, "end")


def work():
    queue = ledger.connect()
    queue.process("chaos", concurrency=8)(handle)
    Sweeper(queue.ledger, queue.read_models, lease_ms=queue.lease_ms).start()
    Worker(queue).run()


# Nobody else buries them.
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in sys.stdin:
    child = os.fork()
    if child:
        print(child, flush=True)
    else:
        work()
        os._exit(1)
"""

# How an attempt ends that others end: its process, or its handler, may not know yet.
RULED: Final = frozenset({"lost", "ttl", "returned"})

# A job's id and the number of an attempt.
Key = tuple[int, int]


class Stretch(NamedTuple):
    """The journal's record of an attempt; ``end_ns`` is None if its process died during it."""

    pid: int
    begin_ns: int
    end_ns: int | None


class Attempt(NamedTuple):
    """The ledger's record of an attempt: its worker, and how it ended."""

    pid: int
    end: str
    lines: int


class Crew:
    """Worker processes, which are killed and replaced one after the other."""

    def __init__(self, url: str, folder: Path) -> None:
        self.killed: list[int] = []
        self._folder = folder
        self._workers: deque[int] = deque()
        with (folder / "output").open("ab") as output:
            self._nursery = subprocess.Popen(
                [sys.executable, "-c", NURSERY],
                cwd=folder,
                env=surroundings(folder, LEDGER_DATABASE_URL=url, LEDGER_LEASE_MS=str(LEASE_MS)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return (self._folder / "output").read_text()

    def start(self) -> None:
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._nursery.stdin.write("\n")
        self._nursery.stdin.flush()
        self._workers.append(int(self._nursery.stdout.readline()))

    def kill_oldest(self) -> bool:
        """Kill the oldest process if it is in the middle of its work; tell whether it was."""
        oldest = self._workers[0]
        if not is_running(oldest):
            raise ChildProcessError(f"worker {oldest} has ended")
        # While one looks, it stands still: the signal stops its threads a moment later.
        os.kill(oldest, signal.SIGSTOP)
        wait_until(lambda: is_stopped(oldest), "the worker stands still")
        begun = any(one.pid == oldest and one.end_ns is None for one in self._stretches())
        if not begun:
            os.kill(oldest, signal.SIGCONT)
            return False
        self._workers.popleft()
        os.kill(oldest, signal.SIGKILL)
        wait_until(lambda: not is_running(oldest), "the worker is dead")
        self.killed.append(oldest)
        return True

    def _stretches(self) -> Iterable[Stretch]:
        return stretches(self._folder).values()

    def end(self) -> None:
        kill_group(self._nursery)
        for pipe in (self._nursery.stdin, self._nursery.stdout):
            if pipe is not None:
                pipe.close()


@contextmanager
def working(url: str, folder: Path) -> Iterator[Crew]:
    """Yield the crew at work; at the end all of it is killed."""
    crew = Crew(url, folder)
    try:
        for _ in range(PROCESSES):
            crew.start()
        yield crew
    except BaseException as error:
        error.add_note(f"the workers said:\n{crew.output}")
        raise
    finally:
        crew.end()


def create(system: System, random: Random, *, jobs: int) -> None:
    backoffs = (None, None, Backoff(type="fixed", delay_ms=50))
    commands = [
        Create(
            type="chaos",
            data=json.dumps({"ms": random.randrange(LONGEST_MS)}),
            priority=random.choice((-10, 0, 0, 10)),
            attempts=random.randint(1, MOST_ATTEMPTS),
            backoff=random.choice(backoffs),
        )
        for _ in range(jobs)
    ]
    system.ledger.submit(commands, actor="test")


def all_ended(system: System) -> bool:
    with system.database.read() as connection:
        counts = system.state_counts.stats(connection).counts
    return not any(counts[state] for state in counts if state not in {"complete", "failed"})


def kill_until_all_ended(system: System, crew: Crew) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not all_ended(system):
        assert time.monotonic() < deadline_s
        next_s = time.monotonic() + KILL_EVERY_S

        def is_time(next_s: float = next_s) -> bool:
            # The first kills do not wait: a fast machine has soon done all jobs.
            if time.monotonic() > next_s or len(crew.killed) < FEWEST_KILLS:
                return crew.kill_oldest() or all_ended(system)
            return all_ended(system)

        wait_until(is_time, "all jobs have ended, or it is time to kill")
        if not all_ended(system):
            crew.start()


def stretches(folder: Path) -> dict[Key, Stretch]:
    """Return what the handlers wrote down; an attempt that begins twice is an error."""
    found: dict[Key, Stretch] = {}
    journal = folder / "journal"
    for line in journal.read_text().splitlines() if journal.exists() else ():
        job_id, attempt, what, pid, at_ns = line.split()
        key = int(job_id), int(attempt)
        if what == "begin":
            assert key not in found, f"begun twice: {line}, before {found[key]}"
            found[key] = Stretch(int(pid), int(at_ns), None)
        else:
            assert found[key].pid == int(pid)
            found[key] = found[key]._replace(end_ns=int(at_ns))
    return found


def recorded(system: System) -> dict[Key, Attempt]:
    """Return the attempts of jobs of type "chaos" as the ledger has them."""
    found: dict[Key, Attempt] = {}
    ids: set[int] = set()
    events = rows(system, "SELECT job_id, kind, body FROM ledger_events ORDER BY position")
    for row in events:
        body = json.loads(row["body"])
        if row["kind"] == "created" and body["type"] == "chaos":
            ids.add(row["job_id"])
        if "attempt" not in body or row["job_id"] not in ids:
            continue
        key = row["job_id"], body["attempt"]
        match row["kind"]:
            case "started":
                found[key] = Attempt(_pid(body["worker"]), "", 0)
            case "logged":
                found[key] = found[key]._replace(lines=found[key].lines + 1)
            case "failed":
                found[key] = found[key]._replace(end=body.get("reason", "error"))
            case "completed" | "returned":
                found[key] = found[key]._replace(end=row["kind"])
    return found


def _pid(worker: str) -> int:
    return int(worker.split(":")[-2])


def overlaps(
    made: Mapping[Key, Stretch], known: Mapping[Key, Attempt]
) -> list[tuple[Key, Stretch, Stretch]]:
    """Return the attempts that began before the one before was over, in truth or by ruling.

    A worker that was silent for the lease has lost its jobs, even if it lives; so has one whose
    attempt took longer than its ttl.
    """
    by_job: defaultdict[int, list[int]] = defaultdict(list)
    for job_id, attempt in sorted(made):
        by_job[job_id].append(attempt)
    found = []
    for job_id, attempts in by_job.items():
        for before, after in pairwise(attempts):
            first, second = made[job_id, before], made[job_id, after]
            over = first.end_ns is not None and first.end_ns < second.begin_ns
            ruling = known.get((job_id, before))
            if not over and (ruling is None or ruling.end not in RULED):
                found.append(((job_id, after), first, second))
    return found


def test_no_job_is_lost_or_done_twice_at_once_however_many_workers_are_killed(
    system: System, database_url: str, tmp_path: Path
) -> None:
    kill_workers(system, database_url, tmp_path, jobs=250)


def kill_workers(system: System, database_url: str, folder: Path, *, jobs: int) -> None:
    """Kill workers until all of *jobs* jobs have ended; tests/soak does it with more."""
    with chance() as random:
        create(system, random, jobs=jobs)
        with working(database_url, folder) as crew:
            kill_until_all_ended(system, crew)
        made, known = stretches(folder), recorded(system)
        unknown = {key for key in made if key not in known or made[key].pid != known[key].pid}
        never_called = {key for key in known if key not in made}
        broken_off = {key for key in made if made[key].end_ns is None}
        heard = {key for key, one in known.items() if one.end in {"completed", "error"}}
        lost = {key for key, one in known.items() if one.end == "lost"}

        assert len(rows(system, "SELECT id FROM ledger_jobs")) == jobs
        assert unfinished(system, known) == []
        assert overlaps(made, known) == []
        assert (unknown, never_called - lost, broken_off - lost) == (set(), set(), set())
        # Who lived to say how it ended has said all before it.
        assert {key for key in heard if known[key].lines != 2} == set()
        assert verified(system).differences == []
        # The kills came in the middle of the work.
        assert len(crew.killed) >= FEWEST_KILLS
        assert {*crew.killed} <= {made[key].pid for key in broken_off}


def unfinished(system: System, known: Mapping[Key, Attempt]) -> list[dict[str, Any]]:
    """Return the jobs that neither succeeded nor failed in each of their attempts."""
    ends: defaultdict[int, list[str]] = defaultdict(list)
    for (job_id, _), attempt in sorted(known.items()):
        ends[job_id].append(attempt.end)
    jobs = rows(
        system,
        "SELECT id, state, made, max_attempts FROM ledger_jobs WHERE type = 'chaos' ORDER BY id",
    )
    return [job for job in jobs if not is_finished(job, ends[job["id"]])]


def is_finished(job: Mapping[str, Any], ends: Sequence[str]) -> bool:
    failures = [end for end in ends if end in {"error", "lost", "ttl"}]
    if job["state"] == "complete":
        return ends[-1] == "completed" and job["made"] == len(failures) + 1
    full = job["made"] == job["max_attempts"] == len(failures)
    return job["state"] == "failed" and full and "completed" not in ends
