"""Submissions of a worker's reports, each of which is recorded once.

If the answer to a submission is lost, its reports stay in the outbox and are submitted
again.  The ledger is then told the position after which they may have been recorded.
"""

from collections.abc import Sequence

from ledger.log.answers import Answer, Claimed, Outcome
from ledger.queue.queue import Queue
from ledger.rules.commands import Command


class Submitter:
    """The submissions of a worker's reports and claims to the ledger.

    It is used by the worker's loop only.

    Args:
        queue: The queue whose ledger is told.
        actor: The worker as an actor.
    """

    def __init__(self, queue: Queue, actor: str) -> None:
        self._queue = queue
        self._actor = actor
        # The ledger's position after the last reports that we know to be recorded.
        self._position = 0
        # Whether the outcome of the last submission is unknown.
        self._is_unsure = False

    def submit(self, submitted: Sequence[Command]) -> list[Answer]:
        """Submit reports and claims; after an error, submit the same reports again first.

        Raises:
            LedgerError: As ``Ledger.submit`` does; the outcome may be unknown.
        """
        since = self._position if self._is_unsure else None
        self._is_unsure = True
        answers = self._queue.ledger.submit(submitted, actor=self._actor, since=since)
        self._is_unsure = False
        for answer in answers:
            if isinstance(answer, Outcome | Claimed):
                self._position = max(self._position, answer.position)
        return answers
