"""Answers to reads: the ETag with the version of the answer, and 304 if nothing has changed.

The ledger's position is the version of everything that can be read.  It is read before the
data, or in the same statement, so an answer can be newer than its ETag, but never older.  At
worst, a client fetches an answer again that it already has.

With the position goes the beginning of its chain value, because another ledger can reach the
same position: after a restore, a client would keep answers that were never true of it.
"""

from typing import Final

import falcon
from sqlalchemy import Connection

from ledger.api.http.errors import JSON_TYPE
from ledger.log import store


def is_current(
    req: falcon.Request,
    resp: falcon.Response,
    connection: Connection,
    version: tuple[int, bytes] | None = None,
) -> bool:
    """Answer 304 if the client has the current version; return whether it has.

    Args:
        req: The request, which may state the client's version.
        resp: The response.
        connection: A connection that can read the ledger's head.
        version: Position and chain value of the answer; by default, those of the head.
    """
    if "HTTP_IF_NONE_MATCH" not in req.env:
        return False
    tags = req.if_none_match or []
    if version is None:
        head = store.read_head(connection)
        version = head.position, head.chain
    newest = _tag(*version)
    if not any(tag == "*" or str(tag) == newest for tag in tags):
        return False
    resp.status = falcon.HTTP_304
    resp.set_header("ETag", f'W/"{newest}"')
    return True


def answer(resp: falcon.Response, data: bytes, version: tuple[int, bytes] | None = None) -> None:
    """Answer *data*; the position and chain value of a read become its ETag."""
    resp.content_type = JSON_TYPE
    resp.data = data
    if version is not None:
        resp.set_header("ETag", f'W/"{_tag(*version)}"')


# Enough to tell histories apart that nobody has made to be confused.
_CHAIN_BYTES: Final = 8


def _tag(position: int, chain: bytes) -> str:
    return f"{position}-{chain[:_CHAIN_BYTES].hex()}"
