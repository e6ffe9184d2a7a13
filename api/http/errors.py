"""Errors as JSON, and the table of the HTTP status of each error."""

import errno
import logging
import math
import os
import time
from collections.abc import Collection, Mapping
from typing import Any, Final

import falcon

from ledger import errors
from ledger.api.http.json_out import encode
from ledger.database import shortages

JSON_TYPE: Final = "application/json; charset=utf-8"

STATUSES: Final[Mapping[type[errors.LedgerError], str]] = {
    errors.InvalidInput: falcon.HTTP_400,
    errors.JobNotFound: falcon.HTTP_404,
    errors.KeyReused: falcon.HTTP_422,
    errors.AttemptOver: falcon.HTTP_409,
    errors.Refused: falcon.HTTP_409,
    errors.Unavailable: falcon.HTTP_503,
    errors.SchemaMismatch: falcon.HTTP_503,
    errors.Corrupt: falcon.HTTP_500,
}

_log = logging.getLogger(__name__)


# A method, and Falcon's template of a path.
Route = tuple[str, str | None]


def install(
    app: "falcon.App[falcon.Request, falcon.Response]", *, lenient: Collection[Route] = ()
) -> None:
    """Make *app* answer all errors, Ledger's and Falcon's, as ``{"error": …}``.

    Args:
        app: The app.
        lenient: Routes whose refusals have the status 200, as in Kue.  The database's outage and
            what is wrong with HTTP itself keep their statuses there too.
    """

    def ours(
        req: falcon.Request,
        resp: falcon.Response,
        error: Any,  # noqa: ANN401 - of the type it is registered for
        params: Mapping[str, Any],
    ) -> None:
        method = "GET" if req.method == "HEAD" else req.method
        refused = isinstance(error, errors.InvalidInput | errors.Refused)
        is_lenient = refused and (method, req.uri_template) in lenient
        _ours(req, resp, error, falcon.HTTP_200 if is_lenient else _status(error))

    app.add_error_handler(Exception, _unexpected)
    app.add_error_handler((OSError, MemoryError), _of_the_system)
    for error in STATUSES:
        app.add_error_handler(error, ours)
    app.add_error_handler(falcon.HTTPError, _falcons)


def _status(error: errors.LedgerError) -> str:
    # Falcon calls the handler for subclasses of the registered errors too.
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def _ours(
    req: falcon.Request, resp: falcon.Response, error: errors.LedgerError, status: str
) -> None:
    resp.status = status
    if isinstance(error, errors.Unavailable):
        resp.set_header("Retry-After", str(error.retry_after_s))
    if isinstance(error, errors.Corrupt):
        _log.error("%s %s: %s", req.method, req.path, error)
    if error.public != str(error):
        _DETAILS.log(str(error))
    _answer(resp, error.public)


class _Details:
    """What is wrong with the server, in its log; not once for each request."""

    def __init__(self) -> None:
        self._logged_s: dict[str, float] = {}

    def log(self, text: str) -> None:
        """Log *text*, unless that was done less than a minute ago."""
        now_s = time.monotonic()
        if now_s - self._logged_s.get(text, -math.inf) < _LOG_EVERY_S:
            return
        if len(self._logged_s) >= _MOST_TEXTS:
            self._logged_s.clear()
        self._logged_s[text] = now_s
        _log.warning("%s", text)


_LOG_EVERY_S: Final = 60
# Texts that are remembered; some contain numbers, so there may be any number of them.
_MOST_TEXTS: Final = 100
_DETAILS: Final = _Details()


def _unexpected(
    req: falcon.Request,
    resp: falcon.Response,
    error: Any,  # noqa: ANN401 - of the type it is registered for
    params: Mapping[str, Any],
) -> None:
    _log.error("%s %s failed", req.method, req.path, exc_info=error)
    resp.status = falcon.HTTP_500
    _answer(resp, "internal error; the server's log has the details")


def _of_the_system(
    req: falcon.Request,
    resp: falcon.Response,
    error: Any,  # noqa: ANN401 - of the type it is registered for
    params: Mapping[str, Any],
) -> None:
    """Answer that the server is short of something, if that is so."""
    if isinstance(error, MemoryError):
        error = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    elif error.errno not in shortages.PASSING:
        _unexpected(req, resp, error, params)
        return
    text = f"the server is short of something: {shortages.in_words(error, 'try again')}"
    _DETAILS.log(text)
    _ours(req, resp, errors.Unavailable(text), falcon.HTTP_503)


def _falcons(
    req: falcon.Request,
    resp: falcon.Response,
    error: Any,  # noqa: ANN401 - of the type it is registered for
    params: Mapping[str, Any],
) -> None:
    resp.status = error.status
    if error.headers is not None:
        resp.set_headers(error.headers)
    _answer(resp, _text(req, error))


def _text(req: falcon.Request, error: falcon.HTTPError) -> str:
    if isinstance(error, falcon.HTTPRouteNotFound):
        return f"no such route: {req.method} {req.path}"
    if isinstance(error, falcon.HTTPMethodNotAllowed):
        allowed = dict(error.headers or {})["Allow"]
        return f"{req.path} does not allow {req.method}, only {allowed}"
    return error.description or error.title or str(error.status)


def _answer(resp: falcon.Response, text: str) -> None:
    resp.content_type = JSON_TYPE
    resp.data = encode({"error": text})
