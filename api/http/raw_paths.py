"""Paths as Kue's clients write them.

A percent-encoded slash is part of a type's name, but WSGI servers decode the path before the
app receives it.  So routing uses the raw path, and the parameters are decoded after it.
Literal parts may be in any case, and one trailing slash is allowed.
"""

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

import falcon

from ledger.errors import InvalidInput

# A percent sign that is not followed by two hexadecimal digits.
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
# Literal parts of the routes, by their place; everything else is a parameter.
_LITERALS: Final[Mapping[str, Mapping[int, frozenset[str]]]] = {
    "job": {
        2: frozenset({"types", "search"}),
        3: frozenset(
            {
                "log",
                "state",
                "priority",
                "events",
                "progress",
                "complete",
                "fail",
                "return",
            }
        ),
    },
    "jobs": {4: frozenset({"stats"})},
    "health": {2: frozenset({"live", "ready"})},
    "workers": {3: frozenset({"heartbeat"})},
}


class Paths:
    """The middleware that routes on the raw path and decodes the parameters."""

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Route on the raw path."""
        raw: str | None = req.env.get("RAW_URI")
        path = quote(req.path) if raw is None else _path_of(raw)
        if path.endswith("/") and len(path) > 1:
            path = path[:-1]
        req.path = path if path in _AS_THEY_ARE else _lowered(path)
        if path.startswith("//"):
            # Falcon would drop the slashes and find a route.
            raise falcon.HTTPRouteNotFound

    def process_resource(
        self, req: falcon.Request, resp: falcon.Response, resource: object, params: dict[str, Any]
    ) -> None:
        """Decode the parameters.

        Raises:
            InvalidInput: One is not percent-encoded UTF-8, or contains NUL.
        """
        for name, value in params.items():
            if "%" in value or not value.isascii():
                params[name] = _decoded(value)


# In a longer path, the second part is a type, which keeps its case.
_CLAIM: Final = "/jobs/claim"
# Frequent paths that need no conversion.
_AS_THEY_ARE: Final = frozenset({"/job", "/stats", "/job/types", "/job/search", _CLAIM})


def _path_of(raw: str) -> str:
    """Return the path of a request target: ``/a?b``, or ``http://host/a?b``."""
    path = raw.partition("?")[0].partition("#")[0]
    if not path.startswith("/"):
        path = "/" + path.partition("://")[2].partition("/")[2]
    return path


def _lowered(path: str) -> str:
    if path.lower() == _CLAIM:
        return _CLAIM
    parts = path.split("/")
    parts[1] = parts[1].lower()
    for place, literals in _LITERALS.get(parts[1], {}).items():
        if place < len(parts) and parts[place].lower() in literals:
            # /jobs/:type/:state/stats has four parts; three parts name no literal.
            parts[place] = parts[place].lower()
    return "/".join(parts)


def _decoded(value: str) -> str:
    if _BAD_ESCAPE.search(value):
        raise InvalidInput.expected("path", "percent-encoded UTF-8", value)
    try:
        # WSGI passes bytes as Latin-1.
        text = unquote_to_bytes(value.encode("latin-1")).decode()
    except UnicodeError as error:
        raise InvalidInput.expected("path", "percent-encoded UTF-8", value) from error
    if "\0" in text:
        raise InvalidInput.expected("path", "text without NUL", text)
    return text
