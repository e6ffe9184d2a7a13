"""Paths as Kue's clients write them.

A percent-encoded slash is part of a type's name, but WSGI servers decode the path before the
app receives it.  So routing uses the raw path, and the parameters are decoded after it.
Literal parts may be in any case, and one trailing slash is allowed.
"""

import re
from collections.abc import Collection
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

import falcon

from ledger.errors import InvalidInput

# A percent sign that is not followed by two hexadecimal digits.
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


class Paths:
    """The middleware that routes on the raw path and decodes the parameters.

    Args:
        templates: The paths of the routes, such as ``/job/{id}/log``.
    """

    def __init__(self, templates: Collection[str]) -> None:
        self._as_they_are = frozenset(path for path in templates if "{" not in path)
        self._words: dict[tuple[int, str], dict[int, set[str]]] = {}
        for path in templates:
            parts = path.split("/")
            of_form = self._words.setdefault((len(parts), parts[1]), {})
            for place, part in enumerate(parts[2:], start=2):
                if not part.startswith("{"):
                    of_form.setdefault(place, set()).add(part)

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Route on the raw path."""
        raw: str | None = req.env.get("RAW_URI")
        path = quote(req.path) if raw is None else _path_of(raw)
        if path.endswith("/") and len(path) > 1:
            path = path[:-1]
        req.path = path if path in self._as_they_are else self._lowered(path)
        if path.startswith("//"):
            # Falcon would drop the slashes and find a route.
            raise falcon.HTTPRouteNotFound

    def _lowered(self, path: str) -> str:
        """Return a path with its literal parts in lower case; a type keeps its own."""
        parts = path.split("/")
        parts[1] = parts[1].lower()
        for place, words in self._words.get((len(parts), parts[1]), {}).items():
            lowered = parts[place].lower()
            if lowered in words:
                parts[place] = lowered
        return "/".join(parts)

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


def _path_of(raw: str) -> str:
    """Return the path of a request target: ``/a?b``, or ``http://host/a?b``."""
    path = raw.partition("?")[0].partition("#")[0]
    if not path.startswith("/"):
        path = "/" + path.partition("://")[2].partition("/")[2]
    return path


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
