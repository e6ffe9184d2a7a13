"""Falcon's routes, made from the rows of ``operations``.

Paths of the same form, such as ``/jobs/{state}/{range}`` and ``/jobs/{range}/{order}``, are
one route for Falcon, which tells neither their rows nor their parameters apart.  So a route's
parameters are named by their place, and the row is chosen by the text in them.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import falcon

from ledger.api.http import requests
from ledger.api.http.parameters import JOB_ID
from ledger.api.operation import Operation, Responder
from ledger.api.operations import OPERATIONS

_PARAMETER: Final = re.compile(r"\{[^}]*\}")


class _Bodies(NamedTuple):
    """How the bodies of requests are read."""

    largest_bytes: int
    lenient: bool

    def reader_of(self, operation: Operation) -> Callable[[bytes], Any] | None:
        """Return the function that parses the body of an operation; None if it has no body."""
        body = operation.body
        if body is None:
            return None
        return (self.lenient and body.read_leniently) or body.read


def add_routes(
    app: "falcon.App[falcon.Request, falcon.Response]",
    resources: Iterable[object],
    *,
    largest_body_bytes: int,
    kue_lenient: bool = False,
) -> None:
    """Route every operation to its responder.

    Args:
        app: The app to add the routes to.
        resources: The objects whose methods the operations name.
        largest_body_bytes: Larger request bodies are refused.
        kue_lenient: Whether bodies are read leniently, by those operations that can.
    """
    bodies = _Bodies(largest_body_bytes, kue_lenient)
    bound: dict[Responder, Responder] = {
        method: method.__get__(resource)
        for resource in resources
        for method in vars(type(resource)).values()
        if callable(method)
    }
    routes: dict[str, dict[str, list[tuple[Operation, Responder]]]] = {}
    for operation in OPERATIONS:
        methods = routes.setdefault(template(operation.path), {})
        methods.setdefault(operation.method, []).append((operation, bound[operation.responder]))
        if operation.method == "GET":
            head = bound[operation.head or operation.responder]
            methods.setdefault("HEAD", []).append((operation, head))
    for path, methods in routes.items():
        responders = {
            f"on_{method.lower()}": _chosen(rows, bodies) for method, rows in methods.items()
        }
        app.add_route(path, SimpleNamespace(**responders))


def template(path: str) -> str:
    """Return Falcon's template of an operation's path: each parameter is named by its place."""
    parts = path.split("/")
    return "/".join(_PARAMETER.sub(f"{{part{place}}}", part) for place, part in enumerate(parts))


def _chosen(rows: Sequence[tuple[Operation, Responder]], bodies: "_Bodies") -> Responder:
    """Return a responder that chooses the operation by the text of the path."""
    carriers = [
        (place, parameter.tells_routes_apart, _carrier(operation, responder, bodies))
        for operation, responder in rows
        for place, parameter in zip(_places(operation), operation.in_path, strict=True)
        if parameter.tells_routes_apart
    ]
    if not carriers:
        [(operation, responder)] = rows
        return _carrier(operation, responder, bodies)
    # If several match, choose the one whose range comes last.
    carriers.sort(key=itemgetter(0), reverse=True)

    def respond(req: falcon.Request, resp: falcon.Response, **parts: str) -> None:
        for place, mark, carry_out in carriers:
            if mark in parts[place]:
                return carry_out(req, resp, **parts)
        raise falcon.HTTPRouteNotFound

    return respond


def _places(operation: Operation) -> list[str]:
    return [part[1:-1] for part in template(operation.path).split("/") if part.startswith("{")]


def _carrier(operation: Operation, responder: Responder, bodies: "_Bodies") -> Responder:
    """Return a function that reads the input of an operation and calls its responder."""
    in_path = [
        (parameter.argument, place, parameter.read)
        for parameter, place in zip(operation.in_path, _places(operation), strict=True)
    ]
    # Invalid values are refused before the job is looked up, as in Kue.
    in_path.sort(key=lambda one: one[0] == JOB_ID.argument)
    query, headers = operation.query, operation.headers
    read_body = bodies.reader_of(operation)
    if not (in_path or query or headers or read_body):
        return responder

    if len(in_path) == 1 and not (query or headers or read_body):
        [(argument, place, read)] = in_path

        def carry_out_simply(req: falcon.Request, resp: falcon.Response, **parts: str) -> None:
            # A shorter way for frequent requests: reads of one job.
            responder(req, resp, **{argument: read(parts[place])})

        return carry_out_simply

    def carry_out(req: falcon.Request, resp: falcon.Response, **parts: str) -> None:
        given: dict[str, Any] = {argument: read(parts[place]) for argument, place, read in in_path}
        for parameter in query:
            sent = req.params.get(parameter.name)
            given[parameter.argument] = parameter.value(sent)
        for parameter in headers:
            given[parameter.argument] = parameter.value(req.get_header(parameter.name))
        if read_body is not None:
            given["body"] = read_body(requests.body(req, bodies.largest_bytes))
        responder(req, resp, **given)

    return carry_out
