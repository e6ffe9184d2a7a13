"""The handlers that a worker calls: all of a queue, or those of some types."""

from collections.abc import Collection

from ledger.errors import InvalidInput
from ledger.queue.queue import Handler, Queue


def chosen_handlers(queue: Queue, types: Collection[str] | None) -> dict[str, Handler]:
    """Return the handlers of *types*, or all if *types* is None.

    Raises:
        InvalidInput: A type has no handler, or there is none at all.
    """
    if types is None:
        if not queue.handlers:
            raise InvalidInput("types", "no handler is registered; use @queue.process(TYPE)")
        return dict(queue.handlers)
    if not types:
        raise InvalidInput.expected("types", "at least one", types)
    missing = sorted(set(types) - queue.handlers.keys())
    if missing:
        known = ", ".join(queue.handlers) or "none"
        raise InvalidInput(
            "types", f"no handler for {', '.join(missing)}; registered types: {known}"
        )
    return {type_: queue.handlers[type_] for type_ in types}
