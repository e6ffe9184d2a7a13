"""Links to what an answer lacks (RFC 8288).

A list that does not fit into one answer ends early, and its ``Link`` header names the next part.
Clients that do not know the header, such as Kue's, see a shorter list.
"""

from typing import Final
from urllib.parse import quote, urlencode

import falcon

from ledger.api.schemas import Schema

NEXT: Final[Schema] = {
    "schema": {"type": "string", "examples": ['</jobs/250..9999>; rel="next"']},
    "description": "Only if the answer lacks some of what was asked for: where the next part is.",
}
# What a path may contain (RFC 3986).  The path is as it was sent, so % begins an escape.
_IN_PATHS: Final = "/%:@!$&'()*+,;=~-._"


def link_to_rest(
    req: falcon.Request,
    resp: falcon.Response,
    *,
    path: str | None = None,
    rel: str = "next",
    **query: str | int | None,
) -> None:
    """Name the part that follows an answer in its ``Link`` header.

    Args:
        req: The request.
        resp: The response.
        path: The path of that part, percent-encoded; None is the path of the request.
        rel: How that part relates to the answer.
        query: The parameters of that part; those that are None are left out.
    """
    named = {name: value for name, value in query.items() if value is not None}
    given = urlencode(named, quote_via=quote)
    # Servers pass bytes as Latin-1.
    target = quote((path or req.path).encode("latin-1"), safe=_IN_PATHS)
    resp.set_header("Link", f'<{target}{"?" if given else ""}{given}>; rel="{rel}"')
