"""The import of the queue that a command line names."""

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Final

from ledger.errors import LedgerError
from ledger.queue.queue import Queue

_EXPECTED: Final = "expected MODULE:ATTRIBUTE, such as myapp.jobs:queue"


class TargetError(LedgerError):
    """A target does not name a queue with handlers for its jobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The arguments of ``ledger work``, which are passed to its processes.

    Attributes:
        name: ``MODULE:ATTRIBUTE`` of the queue.
        types: Types of jobs to run; empty means all that have a handler.
        concurrency: Jobs of each type at once in a process; None uses the handlers' values.
        grace_s: How long running jobs may take to end after a request to stop.
    """

    name: str
    types: tuple[str, ...]
    concurrency: int | None
    grace_s: float


def load(target: Target) -> Queue:
    """Import the queue; limit its handlers to the types and concurrency of *target*.

    The working directory comes first on the path, as with ``python -m``.

    Raises:
        TargetError: There is no such queue, or it has no handler for these jobs.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    queue = _found(target.name)
    handlers = queue.handlers
    if not handlers:
        raise TargetError(
            f"{target.name} has no handlers; decorate a function in that module, or in a module "
            "that it imports, with @queue.process(TYPE)"
        )
    missing = [type_ for type_ in target.types if type_ not in handlers]
    if missing:
        raise TargetError(
            f"{target.name} has no handler for {', '.join(missing)}; it has handlers for "
            f"{', '.join(handlers)}"
        )
    queue.handlers = {
        type_: handler._replace(concurrency=target.concurrency or handler.concurrency)
        for type_, handler in handlers.items()
        if type_ in (target.types or handlers)
    }
    return queue


def slots(queue: Queue) -> Mapping[str, int]:
    """Return how many jobs of each type one process runs at once."""
    return {type_: handler.concurrency for type_, handler in queue.handlers.items()}


def _found(name: str) -> Queue:
    module_name, colon, attribute = name.partition(":")
    if not (colon and module_name and attribute) or module_name.startswith("."):
        raise TargetError(f"{_EXPECTED}; got {name!r}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # If an import inside the module failed, its traceback is worth reading.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise TargetError(
            f"there is no module {error.name!r} in {Path.cwd()} or among the installed packages; "
            f"{_EXPECTED}"
        ) from error
    try:
        found = attrgetter(attribute)(module)
    except AttributeError as error:
        queues = [each for each, value in vars(module).items() if isinstance(value, Queue)]
        known = f"; its queues are {', '.join(queues)}" if queues else "; it has no queue"
        raise TargetError(f"module {module_name} has no {attribute!r}{known}") from error
    if not isinstance(found, Queue):
        raise TargetError(
            f"{name} is of type {type(found).__name__}; expected a Queue, as returned by "
            "ledger.connect()"
        )
    return found
