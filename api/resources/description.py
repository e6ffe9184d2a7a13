"""The resource of the OpenAPI description."""

import falcon

from ledger.api.http.etag import answer


class Description:
    """The description of the API: ``GET /openapi.json``.

    Args:
        document: The OpenAPI document, as JSON.
    """

    def __init__(self, document: bytes) -> None:
        self._document = document

    def show(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer the description."""
        answer(resp, self._document)
