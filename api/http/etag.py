"""Answer reads: the ETag that says which moment was shown, and 304 for no news.

The ledger's position is the version of everything there is to read.  It is read
before the data or in one statement with it, so an answer can be newer than its
tag, never older: at worst a client fetches once more what it has.
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
    """Answer 304 if the client has the newest; tell whether that was all.

    Args:
        req: Which may say what the client has.
        resp: What is answered.
        connection: Where to read.
        position: The version of what is read; None is that of the ledger.
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
    """Answer *data*, as of *position* if it is a read."""
    resp.content_type = JSON_TYPE
    resp.data = data
    if position is not None:
        resp.set_header("ETag", f'W/"{position}"')
