"""What is stated about each operation of the HTTP API: the columns of ``operations``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from ledger.api.http.origins import READING_METHODS
from ledger.api.http.parameters import IN_PATHS, Parameter

# A method of a resource, called with the request, the response, parameters and body.
Responder = Callable[..., None]


class Tag(Enum):
    """The condition for a read to carry the ledger's position as its ETag."""

    NEVER = auto()
    FOR_FIXED_TIMES = auto()
    ALWAYS = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """The body of a request.

    Attributes:
        type: Its Struct, or another type that msgspec describes.
        read: Parses the bytes; raises ``InvalidInput`` if they are not of the type.
        read_leniently: Parses them if ``LEDGER_KUE_LENIENT`` is on; None is as *read*.
        required: Whether the request must have a body.
    """

    type: Any
    read: Callable[[bytes], Any]
    read_leniently: Callable[[bytes], Any] | None = None
    required: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path.

    Attributes:
        responder: The method of a resource that executes it.
        answers: The type of the JSON of each success; None if it has no body.
        refuses: Statuses of its errors, in addition to those that its other attributes imply.
        query: Parameters in the query.
        headers: Parameters in headers.
        body: The body of the request; None if it has none.
        tag: When its answer has an ETag.
        can_be_cut: Whether its answer has a ``Link`` to the next part if it is too long.
        asks_database: Whether it needs the database.
        changing_get: Whether it is a GET that changes something.
        is_kues: Whether Kue has it, with clients that may know Kue's statuses only.
        head: The method that answers HEAD, if it is not the responder of the GET.
    """

    method: str
    path: str
    summary: str
    responder: Responder
    answers: Mapping[int, Any]
    refuses: Sequence[int] = ()
    query: Sequence[Parameter] = ()
    headers: Sequence[Parameter] = ()
    body: Body | None = None
    tag: Tag = Tag.NEVER
    can_be_cut: bool = False
    asks_database: bool = True
    changing_get: bool = False
    is_kues: bool = False
    head: Responder | None = None
    in_path: Sequence[Parameter] = field(init=False)

    def __post_init__(self) -> None:
        named = [part[1:-1] for part in self.path.split("/") if part.startswith("{")]
        object.__setattr__(self, "in_path", tuple(IN_PATHS[name] for name in named))

    @property
    def changes(self) -> bool:
        """Whether it changes something; ``origins`` then checks which page sent it."""
        return self.changing_get or self.method not in READING_METHODS
