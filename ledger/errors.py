"""The exceptions of the job queue.

The tree::

    LedgerError
    ├── InvalidInput        a value that is not allowed
    ├── Refused             a command that the rules forbid
    │   ├── JobNotFound     the job does not exist or was removed
    │   ├── AttemptOver     a report on an attempt that has ended
    │   └── DataErased      the job cannot run without its data
    ├── JobFailed           the job that the caller waited for has failed
    ├── NameTaken           another live worker has the worker's name
    ├── WorkerFailed        a worker that cannot work in its process any more
    ├── Unavailable         the database is down or overloaded; try again
    │   ├── OutcomeUnknown  the commit was not confirmed
    │   └── Replaced        another ledger is in the place of the one that was open
    ├── SchemaMismatch      the tables are not those of this version
    ├── Corrupt             the stored history contradicts itself
    ├── Stuck               a read model cannot apply an event
    ├── Overtaken           another process advanced the read model's checkpoint
    └── SettingsError       invalid settings, all of them together

An error carries its facts as fields; its message states what was expected, what was
found and what to do.  No error depends on HTTP.
"""

from collections.abc import Sequence


class LedgerError(Exception):
    """The base class of all exceptions that this project raises on purpose."""

    _public: str | None = None

    @property
    def public(self) -> str:
        """Return the message for clients: without names of hosts, users and files."""
        return str(self) if self._public is None else self._public


class InvalidInput(LedgerError):  # noqa: N818 - named by what it is, as the whole tree
    """A value that is not allowed.

    Attributes:
        field: The name of the value, as the caller writes it.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field

    @classmethod
    def expected(cls, field: str, expected: str, got: object) -> "InvalidInput":
        """Return the error that names *field*, the value expected and the value found."""
        return cls(field, f"{field}: expected {expected}, got {_shown(got)}")

    @classmethod
    def unknown(cls, what: str, name: str, known: Sequence[str]) -> "InvalidInput":
        """Return the error about an unknown *name*, with the one that was probably meant."""
        near = _nearest(name, known)
        meant = "" if near is None else f"; did you mean {near}?"
        text = f"unknown {what} {_shown(name)}; expected one of {', '.join(known)}{meant}"
        return cls(name, text)


# Long enough to recognise the value, too short to fill a log with personal data.
_LONGEST_SHOWN = 80
# attempt is near attempts (0.93), max_attempts too (0.84); state is not (0.46).
_NEAR = 0.75


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _LONGEST_SHOWN else shown[:_LONGEST_SHOWN] + "…"


def _nearest(name: str, known: Sequence[str]) -> str | None:
    """Return the known name that *name* resembles, regardless of case and underscores."""
    if len(name) > _LONGEST_SHOWN:
        return None
    # Only a wrong name needs it, and it takes as long to import as this module.
    from difflib import get_close_matches  # noqa: PLC0415

    folded = {each.lower().replace("_", ""): each for each in known}
    near = get_close_matches(name.lower().replace("_", ""), folded, n=1, cutoff=_NEAR)
    return folded[near[0]] if near else None


class Refused(LedgerError):  # noqa: N818 - as InvalidInput
    """A command that the rules forbid; nothing was recorded.

    Attributes:
        job_id: The job that the command named.
    """

    def __init__(self, job_id: int, message: str) -> None:
        super().__init__(message)
        self.job_id = job_id


class JobNotFound(Refused):
    """A command for a job that does not exist or was removed.

    The message is Kue's, because Kue's clients show it to people.
    """

    def __init__(self, job_id: int | str) -> None:
        super().__init__(
            job_id if isinstance(job_id, int) else 0,
            f'job "{job_id}" doesnt exist',
        )


class KeyReused(Refused):
    """An idempotency key that comes again with another request.

    Attributes:
        key: The key.
    """

    def __init__(self, job_id: int, key: str) -> None:
        super().__init__(
            job_id,
            f"Idempotency-Key {_shown(key)} came with another request before, which created job "
            f"{job_id}; repeat that request exactly, or use a new key for a new one",
        )
        self.key = key


class AttemptOver(Refused):
    """A report on an attempt that has ended."""


class DataErased(Refused):
    """A job that cannot run, because its data was erased."""

    def __init__(self, job_id: int) -> None:
        super().__init__(job_id, f"the data of job {job_id} was erased, so it cannot run")


class JobFailed(LedgerError):  # noqa: N818 - as InvalidInput
    """The failure of a job that the caller waited for; it is not tried again.

    Attributes:
        job_id: The job.
        error: Its last failure: the message, then the traceback.
    """

    def __init__(self, job_id: int, error: str) -> None:
        super().__init__(f"job {job_id} failed: {error.partition(chr(10))[0]}")
        self.job_id = job_id
        self.error = error


class NameTaken(LedgerError):  # noqa: N818 - as InvalidInput
    """A worker's name that another live worker is using."""


class WorkerFailed(LedgerError):  # noqa: N818 - as InvalidInput
    """A worker that cannot work in its process any more.

    Attributes:
        worker: The worker's name.
        failures: How many steps have failed in a row.
    """

    def __init__(self, worker: str, failures: int, last: str) -> None:
        super().__init__(
            f"worker {worker} cannot work: {failures} steps in a row have failed, the last with "
            f"{last}; start it in another process"
        )
        self.worker = worker
        self.failures = failures


class Unavailable(LedgerError):  # noqa: N818 - as InvalidInput
    """A database that is down or overloaded.

    Attributes:
        retry_after_s: Seconds to wait before the next try.
    """

    def __init__(self, message: str, *, retry_after_s: int = 1, public: str | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self._public = public


class OutcomeUnknown(Unavailable):
    """A commit that was not confirmed; what was asked for may be recorded or not."""

    def __init__(self, reason: str, *, public: str | None = None) -> None:
        unknown = "the commit was not confirmed, so it is unknown whether the changes were recorded"
        super().__init__(
            f"{unknown}: {reason}", public=unknown if public is None else f"{unknown}: {public}"
        )


class Replaced(Unavailable):
    """Another ledger, or an older copy, in the place of the one that was open.

    Attributes:
        position: The last event that was known.
    """

    def __init__(self, database: str, position: int, end: int) -> None:
        text = (
            f"nothing was recorded: event {position:,} of {{}} is not the one that this process "
            f"knew, and the last event is {end:,}; another ledger, or an older copy, was put in "
            "its place: a backup, or a standby that lacked the last commits.  The process "
            "continues with what is there now: if that is wrong, stop it and restore the database"
        )
        super().__init__(text.format(database), public=text.format("the database"))
        self.position = position


class SchemaMismatch(LedgerError):  # noqa: N818 - as InvalidInput
    """A database whose tables are not those of this version."""

    def __init__(self, message: str, *, public: str | None = None) -> None:
        super().__init__(message)
        self._public = public


class Corrupt(LedgerError):  # noqa: N818 - as InvalidInput
    """A stored history that contradicts itself.

    Attributes:
        position: The first event that contradicts the others; None if none can be named.
    """

    def __init__(self, message: str, *, position: int | None = None) -> None:
        super().__init__(message)
        self.position = position


class Stuck(LedgerError):  # noqa: N818 - as InvalidInput
    """A read model that cannot apply an event; it stops, because it never skips one.

    Attributes:
        follower: The read model's name.
        position: The event that it cannot apply.
        reason: Why not.
    """

    def __init__(self, follower: str, position: int, reason: str) -> None:
        super().__init__(
            f"{follower} stopped before event {position}: {reason}; it continues once that is fixed"
        )
        self.follower = follower
        self.position = position
        self.reason = reason


class Overtaken(LedgerError):  # noqa: N818 - as InvalidInput
    """A read model whose checkpoint was advanced by another process.

    Attributes:
        position: The read model's present position.
    """

    def __init__(self, follower: str, position: int) -> None:
        super().__init__(f"another process has advanced {follower} to position {position}")
        self.position = position


class SettingsError(LedgerError):
    """All invalid settings together, one per line."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)
