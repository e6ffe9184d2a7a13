"""A stored body of every kind and schema of event in the history of Ledger.

Existing ledgers contain such bodies, which must always be readable: add samples, but never
change one.
"""

from typing import Final, NamedTuple

from ledger.rules.events import (
    Backoff,
    Completed,
    Created,
    Erased,
    Event,
    Failed,
    Logged,
    Moved,
    Paused,
    Progressed,
    Promoted,
    Removed,
    Reprioritized,
    Resumed,
    Returned,
    Started,
)


class Sample(NamedTuple):
    """A stored event, and the event that it must be decoded to."""

    kind: str
    schema: int
    body: str
    event: Event


SAMPLES: Final = (
    Sample("created", 1, '{"type":"email"}', Created(type="email")),
    Sample(
        "created",
        1,
        '{"type":"e-mail/\u00fc","priority":-10,"attempts":3,"delay_ms":1500,'
        '"promote_at_ms":1700000001500,"ttl_ms":200,'
        '"backoff":{"type":"exponential","delay_ms":2000,"max_delay_ms":60000},'
        '"remove_on_complete":true,"search_keys":["to","from.name"],"unique":"order 7"}',
        Created(
            type="e-mail/ü",
            priority=-10,
            attempts=3,
            delay_ms=1_500,
            promote_at_ms=1_700_000_001_500,
            ttl_ms=200,
            backoff=Backoff(type="exponential", delay_ms=2_000, max_delay_ms=60_000),
            remove_on_complete=True,
            search_keys=("to", "from.name"),
            unique="order 7",
        ),
    ),
    Sample(
        "created",
        1,
        '{"type":"sms","priority":9007199254740991,"backoff":{"type":"repeat"},"search_keys":[]}',
        Created(type="sms", priority=2**53 - 1, backoff=Backoff(type="repeat"), search_keys=()),
    ),
    Sample("started", 1, '{"attempt":1}', Started(attempt=1)),
    Sample(
        "started",
        1,
        '{"attempt":2,"worker":"worker:host:17:0","expires_at_ms":1700000000300}',
        Started(attempt=2, worker="worker:host:17:0", expires_at_ms=1_700_000_000_300),
    ),
    Sample("progressed", 1, '{"attempt":1,"progress":0}', Progressed(attempt=1, progress=0)),
    Sample(
        "progressed",
        1,
        '{"attempt":1,"progress":40,"has_data":true,"expires_at_ms":1700000000300}',
        Progressed(attempt=1, progress=40, has_data=True, expires_at_ms=1_700_000_000_300),
    ),
    Sample("logged", 1, '{"attempt":1}', Logged(attempt=1)),
    Sample("completed", 1, '{"attempt":1}', Completed(attempt=1)),
    Sample(
        "completed",
        1,
        '{"attempt":3,"duration_ms":0}',
        Completed(attempt=3, duration_ms=0),
    ),
    Sample("failed", 1, '{"attempt":3,"next":"failed"}', Failed(attempt=3, next="failed")),
    Sample("failed", 1, '{"attempt":1,"next":"inactive"}', Failed(attempt=1, next="inactive")),
    Sample(
        "failed",
        1,
        '{"attempt":1,"next":"delayed","reason":"ttl","delay_ms":1000,'
        '"promote_at_ms":1700000001000}',
        Failed(
            attempt=1,
            next="delayed",
            reason="ttl",
            delay_ms=1_000,
            promote_at_ms=1_700_000_001_000,
        ),
    ),
    Sample(
        "failed",
        1,
        '{"attempt":2,"next":"inactive","reason":"lost"}',
        Failed(attempt=2, next="inactive", reason="lost"),
    ),
    Sample("removed", 1, "{}", Removed()),
    Sample("removed", 1, '{"reason":"complete"}', Removed(reason="complete")),
    Sample("promoted", 1, "{}", Promoted()),
    Sample("moved", 1, '{"to":"inactive"}', Moved(to="inactive")),
    Sample("moved", 1, '{"to":"delayed"}', Moved(to="delayed")),
    Sample("moved", 1, '{"to":"complete"}', Moved(to="complete")),
    Sample("moved", 1, '{"to":"failed"}', Moved(to="failed")),
    Sample(
        "moved",
        1,
        '{"to":"active","attempt":2,"expires_at_ms":1700000000300}',
        Moved(to="active", attempt=2, expires_at_ms=1_700_000_000_300),
    ),
    Sample("reprioritized", 1, '{"priority":0}', Reprioritized(priority=0)),
    Sample("erased", 1, "{}", Erased()),
    Sample(
        "erased",
        1,
        '{"versions":[1,4],"reason":"asked by its owner"}',
        Erased(versions=(1, 4), reason="asked by its owner"),
    ),
    Sample(
        "returned",
        1,
        '{"attempt":1,"reason":"worker host:17:1 was stopped"}',
        Returned(attempt=1, reason="worker host:17:1 was stopped"),
    ),
    Sample("paused", 1, '{"type":"e-mail/\u00fc"}', Paused(type="e-mail/ü")),
    Sample("resumed", 1, '{"type":"email"}', Resumed(type="email")),
)
