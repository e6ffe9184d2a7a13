"""Request bodies that are one JSON object, read field by field.

User content is kept as it was posted, so a field is not parsed until its value is needed.  An
unknown field is refused: if a misspelt ``retry_after`` were ignored, it would be noticed only
in production.
"""

from collections.abc import Sequence
from typing import Any, Final

import falcon
import msgspec

from ledger.api.http import requests
from ledger.errors import InvalidInput
from ledger.rules import json_text

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_NULL: Final = b"null"


class Fields:
    """The fields of a request's body; a field that is null counts as not given.

    Args:
        req: The request.
        largest_bytes: A larger body is refused.
        known: The fields that are allowed.

    Raises:
        falcon.HTTPContentTooLarge: The body is larger than *largest_bytes*.
        falcon.HTTPUnsupportedMediaType: Its content type is not JSON.
        InvalidInput: It is not a JSON object, or has another field.
    """

    def __init__(self, req: falcon.Request, largest_bytes: int, known: Sequence[str]) -> None:
        raw = requests.body(req, largest_bytes)
        if not raw.lstrip().startswith(b"{"):
            if raw:
                json_text.parse("body", raw)
            raise InvalidInput("body", f"body: expected an object with {', '.join(known)}")
        given = requests.decoded(_decode, raw)
        for name in given:
            if name not in known:
                raise InvalidInput(name, f"unknown field {name!r}; known are {', '.join(known)}")
        self._given = {
            name: json for name, value in given.items() if (json := bytes(value)) != _NULL
        }

    def __contains__(self, name: str) -> bool:
        return name in self._given

    def value(self, name: str) -> Any:  # noqa: ANN401 - JSON is any of its types
        """Return a field's value, or None if it was not given.

        Raises:
            InvalidInput: See ``json_text.parse``.
        """
        return json_text.parse(name, self._given[name]) if name in self._given else None

    def integer(self, name: str) -> Any:  # noqa: ANN401 - as value
        """Return a field's value; a number such as 3.0 is returned as an integer."""
        value = self.value(name)
        return int(value) if isinstance(value, float) and value.is_integer() else value

    def content(self, name: str) -> str | None:
        """Return a field's JSON, byte for byte, or None if it was not given.

        Raises:
            InvalidInput: See ``json_text.text``.
        """
        return json_text.text(name, self._given[name]) if name in self._given else None

    def string(self, name: str) -> str:
        """Return the JSON of a field that must be a string, byte for byte.

        Raises:
            InvalidInput: It is not a string.
        """
        value = self.value(name)
        if not isinstance(value, str):
            raise InvalidInput.expected(name, "a string", value)
        return self._given[name].decode()

    def strings(self, name: str, most: int) -> list[str]:
        """Return the JSON of each string of a field that must be an array of strings.

        Raises:
            InvalidInput: It is not, or has no string, or more than *most*.
        """
        value = self.value(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise InvalidInput.expected(name, "an array of strings", value)
        if not 0 < len(value) <= most:
            raise InvalidInput(name, f"{name}: expected 1 to {most} strings, got {len(value)}")
        return [bytes(item).decode() for item in _items(self._given[name])]

    def flag(self, name: str) -> bool:
        """Return a field that must be true or false; false if it was not given.

        Raises:
            InvalidInput: It is neither.
        """
        value = self.value(name)
        if value is not None and not isinstance(value, bool):
            raise InvalidInput.expected(name, "true or false", value)
        return bool(value)

    def number(self, name: str, *, least: float, most: float) -> float:
        """Return a field that must be a number from *least* to *most*.

        Raises:
            InvalidInput: It is not, or was not given.
        """
        value = self.value(name)
        if type(value) not in (int, float) or not least <= value <= most:
            raise InvalidInput.expected(name, f"a number from {least:g} to {most:g}", value)
        return float(value)


_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
