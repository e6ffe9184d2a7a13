"""A valid request for each operation, on a ledger with job 1 and worker w1."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from ledger.api.operations import Operation
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
    "Claim": {"types": ["email"], "worker": "w1"},
    "Progress": {"attempt": 1, "progress": 40},
    "Log": {"attempt": 1, "line": "x"},
    "Complete": {"attempt": 1},
    "Fail": {"attempt": 1, "error": "x"},
    "Return": {"attempt": 1, "reason": "x"},
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
    body = {"type": "email"} if operation.takes_jobs else BODIES.get(operation.takes or "")
    own = {"Content-Type": "application/json"} if body else {}
    text = json.dumps(body) if body else ""
    return client.send(operation.method, filled(operation.path), text, own | dict(headers))
