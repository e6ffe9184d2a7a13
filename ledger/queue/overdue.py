"""What the sweeper should have done by now, for monitoring.

A sweeper promotes and fails within a second of the time.  If it cannot, or if there is none,
nothing else would show it: delayed jobs stay delayed, and attempts of lost workers stay active.
"""

from typing import TYPE_CHECKING, Final

from ledger.errors import LedgerError
from ledger.projections.lag import LATE_MS, Late

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ledger.log.ledger import Ledger
    from ledger.projections.lag import Lag
    from ledger.queue.read_models import ReadModels

# The role of the process that sweeps, and the name of what is late if none does.
SWEEPER: Final = "sweeper"


def late_work(ledger: "Ledger", read_models: "ReadModels", lags: "Iterable[Lag]") -> list[Late]:
    """Return what is late: the sweeper, and followers.

    Args:
        ledger: The ledger.
        read_models: What is overdue.
        lags: The lags of the followers.
    """
    found = [late_sweeper(ledger, read_models), *(each.late for each in lags)]
    return [each for each in found if each is not None]


def late_sweeper(
    ledger: "Ledger", read_models: "ReadModels", *, late_ms: int = LATE_MS
) -> Late | None:
    """Return how late the sweeper is, or None if it is not.

    Args:
        ledger: The ledger that it sweeps.
        read_models: What is overdue.
        late_ms: It is late if something has been overdue for longer; 10 s by default.
    """
    with ledger.database.read() as connection:
        now_ms = ledger.time_ms(connection)
        overdue = read_models.overdue(connection, now_ms=now_ms)
    if overdue is None or now_ms - overdue.since_ms <= late_ms:
        return None
    return Late(SWEEPER, now_ms - overdue.since_ms, f"{overdue.what}; {_who_sweeps(ledger)}")


def _who_sweeps(ledger: "Ledger") -> str:
    """Return whether a process sweeps, as a clause."""
    leadership = ledger.database.leadership(SWEEPER)
    try:
        if leadership.taken():
            return "the process that sweeps hangs, or has more to do than it can"
    except LedgerError as error:
        return str(error)
    finally:
        leadership.release()
    return "no process sweeps; run `ledger serve`, `ledger work` or `ledger sweep`"
