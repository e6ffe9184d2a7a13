"""The resource of searches for jobs by the words of their data."""

import falcon

from ledger.api.http import json_out
from ledger.api.http.etag import answer, is_current
from ledger.api.http.long_poll import LongPolls
from ledger.database.contract import Database
from ledger.projections.search.search import Search


class Searches:
    """The resource ``GET /job/search``: ids, newest first.

    Args:
        database: The ledger's database.
        search: Finds the ids; it waits for the index for a limited time.
        polls: Lets requests wait, up to a number of them at once.
        largest_page: Maximum number of ids in one answer.
    """

    def __init__(
        self, database: Database, search: Search, polls: LongPolls, *, largest_page: int
    ) -> None:
        self._database = database
        self._search = search
        self._polls = polls
        self._largest_page = largest_page

    def find(
        self, req: falcon.Request, resp: falcon.Response, *, query: str, limit: int, offset: int
    ) -> None:
        """Answer the ids of the jobs that contain all words."""
        with self._database.read() as connection:
            if is_current(req, resp, connection):
                return
        most = min(limit, self._largest_page)
        with self._polls.pausing() as pause:
            found = self._search.find(query, limit=most, offset=offset, pause=pause)
        answer(resp, json_out.ids(found.job_ids), (found.position, found.chain))
