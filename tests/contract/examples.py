"""A valid request for each operation, on a ledger with job 1 and worker w1."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from ledger.api.operation import Operation
from tests.contract.client import Answer, Client

EXAMPLES: Final[Mapping[str, str]] = {
    "id": "1",
    "type": "email",
    "state": "failed",
    "range": "0..3",
    "order": "desc",
    "priority": "high",
    "name": "w1",
}
# A valid body for each operation that needs one.
BODIES: Final[Mapping[str, Any]] = {
    "POST /job": {"type": "email"},
    "POST /jobs/claim": {"types": ["email"], "worker": "w1"},
    "POST /job/{id}/progress": {"attempt": 1, "progress": 40},
    "POST /job/{id}/log": {"attempt": 1, "line": "x"},
    "POST /job/{id}/complete": {"attempt": 1},
    "POST /job/{id}/fail": {"attempt": 1, "error": "x"},
    "POST /job/{id}/return": {"attempt": 1, "reason": "x"},
}


def filled(path: str) -> str:
    """Return *path* with an example for each parameter."""
    for name, example in EXAMPLES.items():
        path = path.replace(f"{{{name}}}", example)
    return path


def named(operation: Operation) -> str:
    return f"{operation.method} {operation.path}"


def perform(
    client: Client, operation: Operation, headers: Mapping[str, str] = MappingProxyType({})
) -> Answer:
    """Send a valid request for an operation, with additional *headers*; return the answer."""
    body = None if operation.body is None else BODIES[named(operation)]
    own = {"Content-Type": "application/json"} if body else {}
    text = json.dumps(body) if body else ""
    return client.send(operation.method, filled(operation.path), text, own | dict(headers))
