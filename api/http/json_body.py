"""Bodies that are one JSON object: decoding into a Struct, and errors that name the field.

msgspec checks types and bounds while it decodes, but its errors do not contain the value.  So a
body that it refuses is read a second time, field by field, for an error with the field, what
was expected and what was found.  Both readings follow the annotations of the Struct.

A field of type ``Raw`` contains JSON that is kept as it was posted.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Final, Generic, TypeVar, cast

import msgspec
from msgspec import Raw, Struct, inspect

from ledger.errors import InvalidInput
from ledger.rules import json_text

NULL: Final = b"null"
# A body without it contains no U+0000, which no database can store.
_NUL_ESCAPE: Final = b"\\u0000"

decode_object = msgspec.json.Decoder(dict[str, Raw]).decode


class JsonBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A body that is one JSON object.

    An unknown field is refused: if a misspelt ``retry_after`` were ignored, it would be noticed
    only in production.

    Attributes:
        also: JSON Schema in addition to that of the fields.
    """

    also: ClassVar[dict[str, Any]] = {}

    def check(self) -> None:
        """Refuse fields that do not go together.

        Raises:
            InvalidInput: They do not.
        """


AnyBody = TypeVar("AnyBody", bound=JsonBody)


class BodyReader(Generic[AnyBody]):
    """The reader of the bodies of one Struct."""

    def __init__(self, struct: type[AnyBody]) -> None:
        self._decode = msgspec.json.Decoder(struct).decode
        self._fields = {field.name: field for field in fields_of(struct)}
        self._unparsed = [
            field
            for field in self._fields.values()
            if isinstance(_core(field.type), inspect.RawType)
        ]
        self._unparsed_items = [
            (name, core.item_type)
            for name, field in self._fields.items()
            if isinstance(core := _core(field.type), inspect.ListType)
            and isinstance(_core(core.item_type), inspect.RawType)
        ]

    def read(self, raw: bytes) -> AnyBody:
        """Parse a body.

        Raises:
            InvalidInput: It is not a JSON object, or a field is unknown, missing or invalid.
        """
        if _NUL_ESCAPE in raw:
            return self._explained(raw)
        try:
            body = self._decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return self._explained(raw)
        return self._checked(body)

    def _checked(self, body: AnyBody) -> AnyBody:
        for field in self._unparsed:
            json = bytes(getattr(body, field.name))
            if json != NULL or field.required:
                _check(field.name, field.type, json_text.parse(field.name, json))
        for name, type_ in self._unparsed_items:
            for item in getattr(body, name) or ():
                _check(name, type_, json_text.parse(name, bytes(item)))
        body.check()
        return body

    def _explained(self, raw: bytes) -> AnyBody:
        """Return the object of a body, read field by field; raise an error that names the field."""
        known = ", ".join(self._fields)
        if not raw.lstrip().startswith(b"{"):
            if raw:
                json_text.parse("body", raw)
            raise InvalidInput("body", f"body: expected an object with {known}")
        given = decoded(decode_object, raw)
        for name in given:
            if name not in self._fields:
                raise InvalidInput.unknown("field", name, tuple(self._fields))
        for name, field in self._fields.items():
            value = json_text.parse(name, bytes(given.get(name, NULL)))
            if value is None and not field.required:
                given.pop(name, None)
                continue
            if isinstance(_core(field.type), inspect.IntType) and isinstance(value, float):
                # JSON does not tell 3.0 from 3.
                value = int(value) if value.is_integer() else value
                given[name] = Raw(msgspec.json.encode(value))
            _check(name, field.type, value)
        # Without repeated fields: the last of them counts.
        return self._checked(decoded(self._decode, msgspec.json.encode(given)))


def decoded(decode: Any, raw: bytes) -> Any:  # noqa: ANN401 - msgspec's decoders
    """Return a body decoded by *decode*.

    Raises:
        InvalidInput: It is not JSON, or not of the decoder's type.
    """
    try:
        return decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput("body", f"body: expected JSON, got: {error}") from error


def require(body: Struct, name: str) -> None:
    """Refuse a body without a field that the other fields require.

    Raises:
        InvalidInput: The field is null or was not given.
    """
    value = getattr(body, name)
    if value is None or (isinstance(value, Raw) and bytes(value) == NULL):
        [type_] = [field.type for field in fields_of(type(body)) if field.name == name]
        raise InvalidInput.expected(name, expectation(type_), None)


def expectation(type_: inspect.Type) -> str:
    """Return a description of valid values for an error."""
    if "expected" in (extra := _extra(type_)):
        return str(extra["expected"])
    match _core(type_):
        case inspect.IntType(ge=least, le=most):
            return f"an integer from {least} to {most}"
        case inspect.FloatType(ge=least, le=most):
            return f"a number from {least:g} to {most:g}"
        case inspect.StrType(min_length=least, max_length=most):
            return f"{least} to {most} characters"
        case inspect.BoolType():
            return "true or false"
        case inspect.ListType(min_length=least, max_length=most):
            return f"an array of {least} to {most} {extra['items']}"
        case core:
            raise TypeError(f"cannot describe {core}")


def _check(name: str, type_: inspect.Type, value: Any) -> None:  # noqa: ANN401 - JSON is any
    """Refuse a value that is not of a type.

    Raises:
        InvalidInput: It is not.
    """
    core = _core(type_)
    match core:
        case inspect.RawType():
            good = isinstance(value, str) or "is_string" not in _extra(type_)
        case inspect.IntType():
            good = type(value) is int and _is_within(value, core.ge, core.le)
        case inspect.FloatType():
            good = type(value) in (int, float) and _is_within(value, core.ge, core.le)
        case inspect.StrType():
            good = isinstance(value, str) and _is_within(
                len(value), core.min_length, core.max_length
            )
        case inspect.BoolType():
            good = isinstance(value, bool)
        case _:
            good = isinstance(value, list)
            if good and not _is_within(len(value), core.min_length, core.max_length):
                got = f"got an array of {len(value)}"
                raise InvalidInput(name, f"{name}: expected {expectation(type_)}, {got}")
    if not good:
        raise InvalidInput.expected(name, expectation(type_), value)
    if isinstance(core, inspect.ListType):
        for item in value:
            _check(name, core.item_type, item)


def _is_within(value: float, least: float | None, most: float | None) -> bool:
    return (least is None or least <= value) and (most is None or value <= most)


def fields_of(struct: type[Struct]) -> Sequence[inspect.Field]:
    """Return msgspec's description of the fields of a Struct."""
    return cast("inspect.StructType", inspect.type_info(struct)).fields


def _core(type_: Any) -> Any:  # noqa: ANN401 - of msgspec.inspect, whose bounds may be None
    """Return a type without its metadata, and without null."""
    while isinstance(type_, inspect.Metadata):
        type_ = type_.type
    if isinstance(type_, inspect.UnionType):
        [type_] = [one for one in type_.types if not isinstance(one, inspect.NoneType)]
        return _core(type_)
    return type_


def _extra(type_: inspect.Type) -> dict[str, Any]:
    """Return the ``Meta.extra`` of a type."""
    if isinstance(type_, inspect.UnionType):
        [type_] = [one for one in type_.types if not isinstance(one, inspect.NoneType)]
    return (type_.extra or {}) if isinstance(type_, inspect.Metadata) else {}
