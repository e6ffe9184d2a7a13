"""The last report on an attempt: what became of it, whatever its handler returned or raised.

An attempt without a last report would not end unless it has a ttl: its worker is alive, so the
lease does not run out, and its slot stays occupied.  Therefore everything that touches an
object of the application, the result or the exception, happens within ``perform``, and ends the
attempt if it fails.
"""

import logging
from typing import Final

from ledger.queue.queue import Handler
from ledger.rules import commands, json_text
from ledger.rules.commands import LARGEST_REPORT
from ledger.worker.error_text import described
from ledger.worker.running_job import Fail, Retry, RunningJob

_log: Final = logging.getLogger(__name__)


def perform(handler: Handler, job: RunningJob) -> commands.OnAttempt:
    """Call the handler, and return the attempt's last report."""
    job_id, attempt = job.key
    try:
        try:
            result = handler.function(job)
            text = None if result is None else json_text.of("result", result, most=LARGEST_REPORT)
            return commands.Complete(job_id=job_id, attempt=attempt, result=text)
        except Retry as error:
            return commands.FailAttempt(
                job_id=job_id,
                attempt=attempt,
                error=described(error),
                retry_after_ms=_after_ms(error),
            )
        except Fail as error:
            return commands.FailAttempt(
                job_id=job_id, attempt=attempt, error=described(error), final=True
            )
    except BaseException as error:  # noqa: BLE001 - user code may raise anything
        return commands.FailAttempt(job_id=job_id, attempt=attempt, error=described(error))


def _after_ms(error: Retry) -> int | None:
    # Checked again: a subclass can set it to anything.
    after_ms = error.after_ms
    return None if after_ms is None else commands.integer("after_ms", after_ms, least=0)


def give_up(job: RunningJob, error: BaseException) -> None:
    """Fail an attempt whose last report could not be created or handed to the job.

    ``perform`` does not raise, but an exception that another thread raises in this one can come
    at any moment.
    """
    text = described(error)
    job_id, attempt = job.key
    job.finish(commands.FailAttempt(job_id=job_id, attempt=attempt, error=text))
    _log.error("job %d: attempt %d was interrupted: %s", job_id, attempt, text)
