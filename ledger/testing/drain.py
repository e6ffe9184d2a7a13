"""Running the jobs of a queue in the calling thread, without workers."""

from collections.abc import Collection
from typing import Final, NamedTuple

from ledger.errors import InvalidInput, LedgerError
from ledger.log.answers import Answer, Outcome
from ledger.log.ports import JobWithData
from ledger.queue.arguments import Json
from ledger.queue.job import Job
from ledger.queue.queue import Handler, Queue
from ledger.rules.commands import Claim, Command, Elapse
from ledger.rules.events import Completed, Failed, Progressed
from ledger.rules.job import State
from ledger.worker.last_report import perform
from ledger.worker.running_job import Fail as GiveUp
from ledger.worker.running_job import Retry, RunningJob
from ledger.worker.sweeper import Sweeper

# More attempts than a test intends to run: reaching it means a job re-creates itself forever.
MOST_ATTEMPTS: Final = 10_000
_WORKER: Final = "drain"
_ACTOR: Final = f"worker:{_WORKER}"


class Ran(NamedTuple):
    """An attempt that was made.

    Attributes:
        job: Its job.
        attempt: Its number, from 1.
        state: The state that the attempt led to: ``complete``; ``failed``; ``delayed`` or
            ``inactive`` if it failed and will be tried again; or, if the attempt was over
            before the handler ended, the state of the job at that time.
        error: The exception that the handler raised; None if it raised none.
    """

    job: Job
    attempt: int
    state: str
    error: BaseException | None


def drain(
    queue: Queue,
    *,
    types: Collection[str] | None = None,
    raises: bool = False,
    most: int = MOST_ATTEMPTS,
) -> list[Ran]:
    """Run all jobs that can run now, in this thread, and return the attempts.

    Jobs run one after the other, the most urgent first, including those that handlers create.
    Delayed jobs run if they are due by the queue's clock; jobs of paused types wait.  A
    handler's log lines and progress are recorded at once.

    Args:
        queue: The queue whose handlers to call; any queue, not only a test's.
        types: The types of jobs to run; None for all that have a handler.
        raises: Whether to raise what a handler raises, once its attempt has failed, except
            ``Retry`` and ``Fail``, which say what to do.  What is no ``Exception``, such as
            ``KeyboardInterrupt``, is always raised.
        most: The largest number of attempts to make.

    Raises:
        InvalidInput: A type has no handler.
        RuntimeError: There is more to do after *most* attempts.
    """
    slots = dict.fromkeys(queue.handlers if types is None else types, 1)
    missing = sorted(slots.keys() - queue.handlers.keys())
    if missing:
        raise InvalidInput("types", f"no handler for {', '.join(missing)}")
    sweeper = Sweeper(queue.ledger, queue.read_models, lease_ms=queue.lease_ms)
    sweeper.sweep()
    ran: list[Ran] = []
    while (claimed := _next(queue, slots, sweeper)) is not None:
        done = _Attempt(queue, claimed).run()
        ran.append(done)
        if done.error is not None and _is_raised(done.error, raises=raises):
            raise done.error
        if len(ran) >= most and _any_waits(queue, slots):
            raise RuntimeError(
                f"jobs are still waiting after {most} attempts; does a job create itself again "
                "without a delay?"
            )
    return ran


def _next(queue: Queue, slots: dict[str, int], sweeper: Sweeper) -> JobWithData | None:
    """Start the most urgent job that can run now; return None if there is none."""
    claim = Claim(worker=_WORKER, slots=slots, limit=1)
    while True:
        claimed = queue.ledger.claim(claim, actor=_ACTOR)
        if claimed.jobs:
            return claimed.jobs[0]
        # A handler may have moved the clock.
        if not sweeper.sweep():
            return None


def _any_waits(queue: Queue, types: Collection[str]) -> bool:
    with queue.database.read() as connection:
        return queue.read_models.any_claimable(connection, types)


def _is_raised(error: BaseException, *, raises: bool) -> bool:
    # Not isinstance, which asks the error for its class.
    if not issubclass(type(error), Exception):
        # Ctrl-C and pytest.fail() are meant for the test's runner.
        return True
    return raises and not issubclass(type(error), Retry | GiveUp)


class _Attempt:
    """An attempt in this thread; each report is recorded at once."""

    def __init__(self, queue: Queue, claimed: JobWithData) -> None:
        self._queue = queue
        self._job = _TimedJob(queue, claimed, self._record)
        self._error: BaseException | None = None
        self._state: str | None = None

    def run(self) -> Ran:
        job = self._job
        job.finish(perform(Handler(self._call, 1), job))
        left = Job(self._queue, job.id, type_=job.type)
        return Ran(left, job.attempt, self._state or left.state, self._error)

    def _call(self, job: RunningJob) -> Json:
        try:
            return self._queue.handlers[job.type].function(job)
        except BaseException as error:
            self._error = error
            raise

    def _record(self, job: RunningJob) -> None:
        commands: list[Command] = list(job.take())
        if self._job.is_late:
            commands.insert(0, Elapse(job_id=job.id))
        for answer in self._queue.ledger.submit(commands, actor=_ACTOR):
            self._process(answer)

    def _process(self, answer: Answer) -> None:
        if isinstance(answer, LedgerError):
            self._job.end()
        elif isinstance(answer, Outcome):
            for event in answer.events:
                if isinstance(event, Progressed):
                    self._job.expire_at(event.expires_at_ms)
                elif isinstance(event, Failed):
                    self._end(event.next)
                elif isinstance(event, Completed):
                    self._end(State.COMPLETE.value)

    def _end(self, state: str) -> None:
        self._state = state
        self._job.expire_at(None)
        self._job.end()


class _TimedJob(RunningJob):
    """A job that expires by the queue's clock, because no other thread ends its attempt."""

    @property
    def is_late(self) -> bool:
        """Return whether its ttl has run out and this is not recorded yet."""
        if self.expires_at_ms is None:
            return False
        with self._queue.database.read() as connection:
            return self.expires_at_ms <= self._queue.ledger.time_ms(connection)

    @property
    def expired(self) -> bool:
        return super().expired or self.is_late
