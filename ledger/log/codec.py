"""Turn events into stored text and back; know every shape they ever had.

The body is written without the fields that have their default, in a fixed
order, and never rewritten: the chain covers these bytes.  Reading an old
``schema`` runs its upcasters, each from one version to the next.  Fields that
this version does not know are left alone in the text; a kind that it does not
know stops the reader, loudly.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from ledger.errors import Corrupt
from ledger.rules.events import EVENTS, Event

Body = dict[str, Any]

# (kind, schema) -> the body as the next schema has it.  No event has changed yet.
UPCASTERS: Final[Mapping[tuple[str, int], Callable[[Body], Body]]] = {}

_BY_KIND: Final = {event.kind: event for event in EVENTS}
_DECODERS: Final = {
    (event.kind, event.schema): msgspec.json.Decoder(event, strict=True) for event in EVENTS
}
_encode = msgspec.json.Encoder().encode


def encode(event: Event) -> str:
    """Return the body of *event* as JSON text, ``{}`` if all is at its default."""
    if event.content is not None:
        event = replace(event, content=None)
    return _encode(event).decode()


def decode(
    kind: str,
    schema: int,
    body: str,
    *,
    upcasters: Mapping[tuple[str, int], Callable[[Body], Body]] = UPCASTERS,
) -> Event:
    """Return the event that is stored as *body*, without its content.

    Args:
        kind: The event's stored name.
        schema: The version of its shape.
        body: JSON text.
        upcasters: How an older shape becomes the next one.

    Raises:
        Corrupt: The kind or the schema is unknown, or the body is not its.
    """
    try:
        if upcasters is not UPCASTERS:
            return _decode_older(kind, schema, body, upcasters)
        if len(body) <= _LONGEST_REMEMBERED:
            return _remembered(kind, schema, body)
        return _decode(kind, schema, body)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise Corrupt(f"the body of a {kind!r} event cannot be read: {error}") from error


def _decode(kind: str, schema: int, body: str) -> Event:
    decoder = _DECODERS.get((kind, schema))
    if decoder is not None:
        return decoder.decode(body)
    return _decode_older(kind, schema, body, UPCASTERS)


# Most bodies are alike, and an event is immutable: one will do for all of them.
_remembered: Final = lru_cache(maxsize=4096)(_decode)
# What is remembered is small, whatever somebody posts.
_LONGEST_REMEMBERED: Final = 500


def _decode_older(
    kind: str,
    schema: int,
    body: str,
    upcasters: Mapping[tuple[str, int], Callable[[Body], Body]],
) -> Event:
    event = _BY_KIND.get(kind)
    if event is None:
        raise Corrupt(f"unknown kind of event {kind!r}; it was written by a newer version: upgrade")
    fields: Body = msgspec.json.decode(body, type=Body)
    while schema != event.schema:
        upcast = upcasters.get((kind, schema))
        if upcast is None:
            raise Corrupt(
                f"unknown schema {schema} of {kind!r}; this version knows up to "
                f"{event.schema}: upgrade"
            )
        fields = upcast(fields)
        schema += 1
    return msgspec.convert(fields, event)
