"""The jobs with unique keys: those in the ledger, and those that the batch has created so far.

A command that creates a job is answered with an earlier job if it repeats that job's request or has
the same ``unique`` key.  To tell a repeated request from another one with the same key, the command
is compared with the recorded event, so no digest of the request is stored.
"""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection

from ledger.errors import KeyReused
from ledger.log.history import read_created
from ledger.log.ports import UniqueKeyStore
from ledger.rules.commands import Create
from ledger.rules.decide import repeats
from ledger.rules.events import Created
from ledger.rules.key_names import name_of_option, name_of_place, name_of_request, names


class KnownKeys:
    """The jobs by the names of their keys; see ``key_names``.

    Args:
        tx: The transaction, which holds the head's lock.
        store: The jobs by name.
    """

    def __init__(self, tx: Connection, store: UniqueKeyStore) -> None:
        self._tx = tx
        self._store = store
        self._jobs: dict[str, int] = {}
        # The first events of the jobs that requests with keys have created.
        self._created: dict[int, Created] = {}
        # The submission of each request whose jobs this batch creates.
        self._submissions: dict[str, object] = {}

    def load(self, commands: Iterable[Create]) -> None:
        """Load the jobs that have the keys of *commands*, of which most have none."""
        places: set[str] = set()
        wanted: set[str] = set()
        for command in commands:
            if command.unique is None and command.request is None:
                continue
            wanted.update(names(command.unique, command.request))
            if command.request is not None:
                places.add(name_of_place(command.request))
        if not wanted:
            return
        self._jobs.update(self._store.find(self._tx, sorted(wanted)))
        repeated = sorted({self._jobs[name] for name in places & self._jobs.keys()})
        if repeated:
            self._created.update(read_created(self._tx, repeated))

    def find(self, command: Create, submission: object) -> int | KeyReused | None:
        """Return the job that a command would create again; None if there is none.

        Returns:
            The job, or the refusal of another request with the same key.
        """
        request = command.request
        if request is not None:
            job_id = self._jobs.get(name_of_place(request))
            if job_id is not None:
                created = self._created.get(job_id)
                same = created is not None and repeats(command, created)
                return job_id if same else KeyReused(job_id, request.key)
        if command.unique is not None:
            job_id = self._jobs.get(name_of_option(command.unique))
            if job_id is not None:
                return job_id
        if request is not None:
            name = name_of_request(request)
            job_id = self._jobs.get(name)
            if job_id is not None and self._submissions.get(name) is not submission:
                return KeyReused(job_id, request.key)
        return None

    def add(self, job_id: int, event: Created, submission: object) -> None:
        """Remember a job that the batch creates."""
        for name in names(event.unique, event.request):
            self._jobs.setdefault(name, job_id)
        if event.request is not None:
            self._created[job_id] = event
            self._submissions[name_of_request(event.request)] = submission

    def saved(self) -> Any:  # noqa: ANN401 - for ``restore`` only
        """Return what ``restore`` needs to forget later jobs."""
        return dict(self._jobs), dict(self._created), dict(self._submissions)

    def restore(self, saved: Any) -> None:  # noqa: ANN401 - of ``saved``
        """Forget the jobs that were added since *saved*."""
        self._jobs, self._created, self._submissions = saved
