"""Say what went wrong, in the words of the job queue.

The tree::

    LedgerError
    ├── InvalidInput        a value that no job can have
    ├── Refused             the rules forbid the command
    │   ├── JobNotFound     there is no such job, or no longer
    │   └── AttemptOver     a late word from an attempt that has ended
    ├── JobFailed           the job that was waited for failed for good
    ├── Unavailable         the database is away or overloaded; try again
    ├── SchemaMismatch      the tables are not those of this version
    ├── Corrupt             the stored history contradicts itself
    ├── Stuck               a read model cannot be told an event
    ├── Overtaken           somebody else brought the read model further meanwhile
    └── SettingsError       bad settings, all of them together

An error carries its facts as fields; its text says what was expected, what was
found and what to do.  None of them knows HTTP.
"""

from collections.abc import Sequence


class LedgerError(Exception):
    """Be the base of everything that this project raises on purpose."""


class InvalidInput(LedgerError):  # noqa: N818 - it names what it is, as the whole tree does
    """Refuse a value that no job can have.

    Attributes:
        field: The name of the value, as the caller wrote it.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field

    @classmethod
    def expected(cls, field: str, expected: str, got: object) -> "InvalidInput":
        """Return the error that names *field*, what it should be and what came."""
        shown = repr(got)
        if len(shown) > _LONGEST_SHOWN:
            shown = shown[:_LONGEST_SHOWN] + "…"
        return cls(field, f"{field}: expected {expected}, got {shown}")


# Long enough to recognise the value, too short to fill a log with someone's data.
_LONGEST_SHOWN = 80


class Refused(LedgerError):  # noqa: N818 - as InvalidInput
    """Refuse a command that the rules forbid; nothing was recorded.

    Attributes:
        job_id: The job that the command named.
    """

    def __init__(self, job_id: int, message: str) -> None:
        super().__init__(message)
        self.job_id = job_id


class JobNotFound(Refused):
    """Refuse a command for a job that does not exist, or no longer.

    The text is Kue's, which its clients show to people.
    """

    def __init__(self, job_id: int | str) -> None:
        super().__init__(
            job_id if isinstance(job_id, int) else 0,
            f'job "{job_id}" doesnt exist',
        )


class AttemptOver(Refused):
    """Refuse the late word of an attempt that has ended."""


class JobFailed(LedgerError):  # noqa: N818 - as InvalidInput
    """Tell who waited for a job that it failed for good.

    Attributes:
        job_id: The job.
        error: Its last failure: the message, then the traceback.
    """

    def __init__(self, job_id: int, error: str) -> None:
        super().__init__(f"job {job_id} failed: {error.partition(chr(10))[0]}")
        self.job_id = job_id
        self.error = error


class Unavailable(LedgerError):  # noqa: N818 - as InvalidInput
    """Tell that the database is away or overloaded.

    Attributes:
        retry_after_s: Seconds after which another try makes sense.
    """

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class SchemaMismatch(LedgerError):  # noqa: N818 - as InvalidInput
    """Tell that the database's tables are not those of this version."""


class Corrupt(LedgerError):  # noqa: N818 - as InvalidInput
    """Tell that the stored history contradicts itself.

    Attributes:
        position: The first event at which it does, where one can be named.
    """

    def __init__(self, message: str, *, position: int | None = None) -> None:
        super().__init__(message)
        self.position = position


class Stuck(LedgerError):  # noqa: N818 - as InvalidInput
    """Tell that a read model cannot go on: it never skips an event.

    Attributes:
        follower: The read model's name.
        position: The event that it cannot be told.
        reason: Why.
    """

    def __init__(self, follower: str, position: int, reason: str) -> None:
        super().__init__(
            f"{follower} stops before event {position}: {reason}; it goes on once that is mended"
        )
        self.follower = follower
        self.position = position
        self.reason = reason


class Overtaken(LedgerError):  # noqa: N818 - as InvalidInput
    """Tell that somebody else brought the read model further meanwhile.

    Attributes:
        position: How far it has come.
    """

    def __init__(self, follower: str, position: int) -> None:
        super().__init__(f"{follower} was brought to position {position} by another process")
        self.position = position


class SettingsError(LedgerError):
    """Report all bad settings together, a line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)
