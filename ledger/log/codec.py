"""The encoding of events as stored text, and the decoding of every schema ever stored.

The body omits fields that have their default value, has a fixed field order and is never
rewritten, because the hash chain covers these bytes.  Decoding an older ``schema`` runs
its upcasters, each from one version to the next.  Fields that this version does not know
are ignored and stay in the stored text; an unknown kind raises ``Corrupt``.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from ledger.errors import Corrupt
from ledger.rules.events import EVENTS, Event

Body = dict[str, Any]

# (kind, schema) -> the function from that body to the next schema's.  No event has changed yet.
UPCASTERS: Final[Mapping[tuple[str, int], Callable[[Body], Body]]] = {}

_BY_KIND: Final = {event.kind: event for event in EVENTS}
_DECODERS: Final = {
    (event.kind, event.schema): msgspec.json.Decoder(event, strict=True) for event in EVENTS
}
_encode = msgspec.json.Encoder().encode


def encode(event: Event) -> str:
    """Return the body of *event* as JSON text, ``{}`` if all fields have their defaults.

    The content is not part of the body.
    """
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
        schema: The version of the body's schema.
        body: JSON text.
        upcasters: The functions from an older schema to the next one.

    Raises:
        Corrupt: The kind or the schema is unknown, or the body does not match them.
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


# Most bodies are equal and events are immutable, so equal bodies share one event.
_remembered: Final = lru_cache(maxsize=4096)(_decode)
# In characters: longer bodies are not cached, which bounds the cache's memory.
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
