"""Objects and exceptions whose own methods raise, lie or never come to an end.

They are made from descriptions, because nothing may be asked of the objects themselves: not even
their representation in the message of a failed test.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from ledger import Fail, Retry

MEBI: Final = 1024 * 1024


def _raise(error: type[BaseException]) -> Callable[..., Any]:
    def behave(*_: object, **__: object) -> Any:
        raise error("from a method of the object")

    return behave


def _endless(*_: object) -> Iterator[str]:
    while True:
        yield "x" * MEBI


def _endless_pairs(*_: object) -> Iterator[tuple[str, str]]:
    number = 0
    while True:
        number += 1
        yield str(number), "x" * MEBI


def _another(*_: object) -> BaseException:
    """Return an exception that no one has seen, whose cause is another one, and so on."""
    return _EndlessError()


class _EndlessError(Exception):
    __cause__ = property(_another)


class _LyingText(str):
    """A text that is not what its methods say."""

    __slots__ = ()

    def __len__(self) -> int:
        return 0

    def __format__(self, format_spec: str) -> str:
        raise ZeroDivisionError

    def replace(self, *_: Any) -> Any:
        return {}

    def splitlines(self, keepends: bool = False) -> Any:  # noqa: FBT001, FBT002 - str's
        raise ZeroDivisionError


# What a method or a property of a hostile class can do.
BEHAVIOURS: Final[Mapping[str, Callable[..., Any]]] = {
    "raises ZeroDivisionError": _raise(ZeroDivisionError),
    "raises KeyboardInterrupt": _raise(KeyboardInterrupt),
    "raises SystemExit": _raise(SystemExit),
    "raises GeneratorExit": _raise(GeneratorExit),
    "raises MemoryError": _raise(MemoryError),
    "raises RecursionError": _raise(RecursionError),
    "raises StopIteration": _raise(StopIteration),
    "raises AttributeError": _raise(AttributeError),
    "returns itself": lambda *given: given[0] if given else None,
    "returns None": lambda *_: None,
    "returns a number": lambda *_: -1,
    "returns a fraction": lambda *_: 0.5,
    "returns a text": lambda *_: "a text",
    "returns half a character": lambda *_: "\ud800\0",
    "returns a huge text": lambda *_: "ab\n" * MEBI,
    "returns a huge line": lambda *_: "\0" * MEBI,
    "returns a lying text": lambda *_: _LyingText("a lie"),
    "returns a class": lambda *_: SyntaxError,
    "returns another exception": _another,
    "returns a list without end": _endless,
    "returns pairs without end": _endless_pairs,
}
# Methods and properties that a class can define.
METHODS: Final = (
    "__str__",
    "__repr__",
    "__format__",
    "__len__",
    "__bool__",
    "__iter__",
    "__getitem__",
    "__getattr__",
    "__getattribute__",
    "__hash__",
    "__eq__",
    "__instancecheck__",
    "__mod__",
    "__index__",
    "__reduce__",
    "__dir__",
    "items",
    "keys",
    "values",
    "splitlines",
    "with_traceback",
)
METHODS_OF_CLASSES: Final = (
    "__repr__",
    "__str__",
    "__hash__",
    "__eq__",
    "__subclasscheck__",
    "__name__",
    "__module__",
    "__mro__",
)
PROPERTIES: Final = (
    "__name__",
    "__module__",
    "__mro__",
    "__class__",
    "__dict__",
    "__doc__",
    "__traceback__",
    "__cause__",
    "__context__",
    "__suppress_context__",
    "__notes__",
    "args",
    "after_ms",
    "exceptions",
    "message",
    "msg",
    "text",
    "lineno",
    "offset",
    "end_lineno",
    "end_offset",
)
OBJECTS: Final[Mapping[type, tuple[Any, ...]]] = {
    object: (),
    int: (3,),
    float: (0.5,),
    str: ("text",),
    list: (["item"],),
    tuple: (("item",),),
    dict: ({"key": "value"},),
}
ERRORS: Final[Mapping[type[BaseException], tuple[Any, ...]]] = {
    Exception: ("broken",),
    BaseException: ("broken",),
    ValueError: ("broken",),
    OSError: (2, "broken", "file"),
    KeyError: ("key",),
    AttributeError: ("broken",),
    UnicodeDecodeError: ("utf-8", b"\xff", 0, 1, "broken"),
    SyntaxError: ("broken", ("file", 1, 1, "1 +", 1, 4)),
    ExceptionGroup: ("two", [ValueError("one"), OSError("other")]),
    KeyboardInterrupt: (),
    SystemExit: (1,),
    GeneratorExit: (),
    MemoryError: (),
    RecursionError: (),
    StopIteration: (1,),
    Retry: ("later",),
    Fail: ("never",),
}


class Hostile(NamedTuple):
    """The description of an instance of a hostile class.

    Attributes:
        base: The class that its class is derived from.
        methods: The methods and properties that its class defines, and what they do.
        attributes: What is set on the object itself, or its description.
        class_methods: The methods and properties of its metaclass.
        calls_base: Whether the constructor calls that of *base*.
    """

    base: type
    methods: Mapping[str, str] = {}
    attributes: Mapping[str, Any] = {}
    class_methods: Mapping[str, str] = {}
    calls_base: bool = True

    def make(self) -> Any:
        """Return the object."""
        namespace = _members(self.methods)
        metaclass = type("HostileClass", (type,), _members(self.class_methods))
        arguments = OBJECTS.get(self.base) or ERRORS.get(self.base, ())
        if not self.calls_base:
            namespace["__init__"] = lambda *_: None
        made = metaclass(f"Hostile{self.base.__name__}", (self.base,), namespace)(*arguments)
        for name, value in self.attributes.items():
            try:
                object.__setattr__(made, name, value.make() if isinstance(value, Odd) else value)
            except (AttributeError, TypeError):
                # A property without a setter, or a value that Python refuses there.
                continue
        return made


def _members(methods: Mapping[str, str]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, behaviour in methods.items():
        behave = BEHAVIOURS[behaviour]
        members[name] = property(behave) if name in PROPERTIES else behave
    return members


class Linked(NamedTuple):
    """The description of an exception that others led to.

    Attributes:
        error: What is raised.
        number: How many other exceptions led to it.
        by: How: each is the cause of the next, its context, or in a group of exceptions.
        is_circle: Whether it led to the first of them.
    """

    error: Hostile
    number: int
    by: str
    is_circle: bool = False

    def make(self) -> BaseException:
        """Return the exception."""
        first = last = self.error.make()
        for number in range(self.number):
            if self.by == "exceptions":
                last = BaseExceptionGroup(f"group {number}", [last])
                continue
            other = ValueError(f"error {number}")
            _link(last, self.by, other)
            last = other
        if self.by == "exceptions":
            return last  # type: ignore[no-any-return]
        if self.is_circle and last is not first:
            _link(last, self.by, first)
        return first  # type: ignore[no-any-return]


def _link(error: BaseException, by: str, other: BaseException) -> None:
    # Python's own attribute, even if the class defines one of the same name.
    BaseException.__dict__[by].__set__(error, other)


class Odd(NamedTuple):
    """The description of an odd object of Python's own classes.

    Attributes:
        what: One of ``ODD_OBJECTS``.
    """

    what: str

    def make(self) -> Any:
        """Return the object."""
        return ODD_OBJECTS[self.what]()


def _circle(*, is_list: bool) -> Any:
    circle: Any = [] if is_list else {}
    within = [circle, circle]
    if is_list:
        circle.append(within)
    else:
        circle["a"] = within
    return circle


def _nested(depth: int, *, is_list: bool) -> Any:
    nested: Any = None
    for _ in range(depth):
        nested = [nested] if is_list else {"a": nested}
    return nested


ODD_OBJECTS: Final[Mapping[str, Callable[[], Any]]] = {
    "no number": lambda: float("nan"),
    "infinity": lambda: float("-inf"),
    "a number of many digits": lambda: 10**5_000,
    "many numbers of many digits": lambda: [10**4_000] * 1_000,
    "a complex number": lambda: 1j,
    "bytes": lambda: b"bytes",
    "half a character": lambda: "half \ud800",
    "an escaped half": lambda: "\\ud800",
    "a NUL": lambda: "nul \0",
    "a text that is too long": lambda: "x" * (17 * MEBI),
    "a text that is too long with its escapes": lambda: "\x01" * (3 * MEBI),
    "a set": lambda: {1, 2},
    "a number as a key": lambda: {1: 2},
    "a tuple as a key": lambda: {("a", "b"): 1},
    "a class": lambda: object,
    "a function": lambda: len,
    "NotImplemented": lambda: NotImplemented,
    "a range": lambda: range(3),
    "an iterator": lambda: iter(range(3)),
    "a list that contains itself": lambda: _circle(is_list=True),
    "a dict that contains itself": lambda: _circle(is_list=False),
    "a deep list": lambda: _nested(300, is_list=True),
    "a deeper list": lambda: _nested(3_000, is_list=True),
    "the deepest list": lambda: _nested(100_000, is_list=True),
    "a deep dict": lambda: _nested(300, is_list=False),
    "the deepest dict": lambda: _nested(100_000, is_list=False),
}


class Outcome(NamedTuple):
    """What a handler does: it returns or raises what *described* describes.

    Attributes:
        described: A description, or an object; also within lists and dicts.
        depth: After how many calls of itself.
    """

    described: Any
    raises: bool
    depth: int = 0

    def happen(self) -> Any:
        """Return the object, or raise the exception."""
        if self.depth:
            return self._replace(depth=self.depth - 1).happen()
        made = _made(self.described)
        if self.raises:
            raise made
        return made


def _made(described: Any) -> Any:
    if isinstance(described, Hostile | Linked | Odd):
        return described.make()
    if isinstance(described, list):
        return [_made(each) for each in described]
    if isinstance(described, dict):
        return {key: _made(each) for key, each in described.items()}
    return described
