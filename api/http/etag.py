"""Answers to reads: the ETag with the position of the answer, and 304 if nothing has changed.

The ledger's position is the version of everything that can be read.  It is read before the
data, or in the same statement, so an answer can be newer than its ETag, but never older.  At
worst, a client fetches an answer again that it already has.
"""

import falcon
from sqlalchemy import Connection

from ledger.api.http.errors import JSON_TYPE
from ledger.log import store


def is_current(
    req: falcon.Request,
    resp: falcon.Response,
    connection: Connection,
    position: int | None = None,
) -> bool:
    """Answer 304 if the client has the current version; return whether it has.

    Args:
        req: The request, which may state the client's version.
        resp: The response.
        connection: A connection that can read the ledger's position.
        position: Version of the answer; by default, the ledger's position.
    """
    if "HTTP_IF_NONE_MATCH" not in req.env:
        return False
    tags = req.if_none_match or []
    newest = str(store.read_position(connection) if position is None else position)
    if not any(tag == "*" or str(tag) == newest for tag in tags):
        return False
    resp.status = falcon.HTTP_304
    resp.set_header("ETag", f'W/"{newest}"')
    return True


def answer(resp: falcon.Response, data: bytes, position: int | None = None) -> None:
    """Answer *data*, with *position* as its ETag if it is a read."""
    resp.content_type = JSON_TYPE
    resp.data = data
    if position is not None:
        resp.set_header("ETag", f'W/"{position}"')
