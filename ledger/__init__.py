"""A job queue whose database is its own audit trail.

Usage:

    import ledger

    queue = ledger.connect("sqlite:///jobs.db")

    @queue.process("email", concurrency=20)
    def send(job):
        job.log("to %s", job.data["to"])

    queue.create("email", {"to": "tj@learnboost.com"}, attempts=5)
    ledger.Worker(queue).run()
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ledger.database.table_names import alembic_include_name
    from ledger.errors import (
        AttemptOver,
        InvalidInput,
        JobFailed,
        JobNotFound,
        LedgerError,
        NameTaken,
        OutcomeUnknown,
        Refused,
        SchemaMismatch,
        Unavailable,
        WorkerFailed,
    )
    from ledger.queue.job import Job
    from ledger.queue.queue import Queue
    from ledger.worker.running_job import Fail, Retry, RunningJob
    from ledger.worker.worker import Worker

__all__: Final = [
    "AttemptOver",
    "Fail",
    "InvalidInput",
    "Job",
    "JobFailed",
    "JobNotFound",
    "LedgerError",
    "NameTaken",
    "OutcomeUnknown",
    "Queue",
    "Refused",
    "Retry",
    "RunningJob",
    "SchemaMismatch",
    "Unavailable",
    "Worker",
    "WorkerFailed",
    "alembic_include_name",
    "connect",
]


# The modules that define the public names.  A module is imported when one of its names is
# first used: every pytest session loads our plugin, even if it does not test jobs.
_HOMES: Final = {
    "ledger.errors": (
        "AttemptOver",
        "InvalidInput",
        "JobFailed",
        "JobNotFound",
        "LedgerError",
        "NameTaken",
        "OutcomeUnknown",
        "Refused",
        "SchemaMismatch",
        "Unavailable",
        "WorkerFailed",
    ),
    "ledger.database.table_names": ("alembic_include_name",),
    "ledger.queue.queue": ("Queue",),
    "ledger.queue.job": ("Job",),
    "ledger.worker.running_job": ("Fail", "Retry", "RunningJob"),
    "ledger.worker.worker": ("Worker",),
}
_HOME_OF: Final = {name: home for home, names in _HOMES.items() for name in names}

if not TYPE_CHECKING:  # Otherwise mypy would accept any attribute of this module.

    def __getattr__(name: str) -> object:
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOME_OF})


def connect(
    database_url: str | None = None, *, actor: str | None = None, schema: str | None = None
) -> "Queue":
    """Return the queue in a database, which is opened when the queue is first used.

    So a module can call this while the database is unavailable.  The first use creates the
    tables in an empty SQLite file; ``Queue.open`` creates them at once.

    Args:
        database_url: ``sqlite:///jobs.db`` or ``postgresql+psycopg://USER@HOST/NAME``.  The
            default is the value of ``LEDGER_DATABASE_URL``, or ``sqlite:///ledger.db``.
        actor: Name of the application in the history, recorded as ``app:ACTOR``.  The default
            is ``HOST:PID``.
        schema: The PostgreSQL schema of the ledger's tables.  The default is the value of
            ``LEDGER_SCHEMA``, or the schema in which the server creates tables.

    Raises:
        SettingsError: The URL or another ``LEDGER_*`` setting is invalid.
    """
    # Imported late, like all public names.
    from ledger.processes.connect import connect  # noqa: PLC0415
    from ledger.processes.settings import read_settings  # noqa: PLC0415
    from ledger.processes.unknown_variables import warn_once  # noqa: PLC0415
    from ledger.queue.queue import own_name  # noqa: PLC0415

    warn_once()
    settings = read_settings({"database_url": database_url, "schema": schema})
    return connect(settings, actor=f"app:{actor or own_name()}")
