"""The resource of searches: which jobs have some words in their data."""

import falcon

from ledger.api.http import json_out, requests
from ledger.api.http.etag import answer, is_current
from ledger.database.contract import Database
from ledger.errors import InvalidInput
from ledger.projections.search.search import DEFAULT_LIMIT, Search


class Searches:
    """The resource ``GET /job/search``: ids, newest first, as of now or later.

    Args:
        database: The ledger's database.
        search: Finds the ids; waits for the index if it must, for a limited time.
        largest_page: Maximum number of ids in one answer.
    """

    def __init__(self, database: Database, search: Search, *, largest_page: int) -> None:
        self._database = database
        self._search = search
        self._largest_page = largest_page

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        query = req.params.get("q", "")
        if not isinstance(query, str):
            raise InvalidInput("q", "q: expected one text, got several; separate words by spaces")
        limit = min(requests.natural(req, "limit", default=DEFAULT_LIMIT), self._largest_page)
        offset = requests.natural(req, "offset", default=0)
        with self._database.read() as connection:
            if is_current(req, resp, connection):
                return
        found = self._search.find(query, limit=limit, offset=offset)
        answer(resp, json_out.ids(found.job_ids), found.position)

    on_head = on_get
