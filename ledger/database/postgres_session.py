"""What a session on PostgreSQL is set to, whatever its server, role and database say.

An administrator can give every setting another default, with ``ALTER ROLE … SET`` for instance.
Those on which the outcome of a statement depends are set here.

* ``READ COMMITTED``: an append that has waited for the head must see it as it is now.  In a
  stricter level it would fail instead, as would every concurrent append.
* ``synchronous_commit``: an acknowledged write is on the server's disk.  ``remote_apply``, which
  promises more, is kept.
* No timeout ends a session or transaction that waits: a leader and a watch are idle for hours.
  ``statement_timeout`` is kept for reads.  In transactions it is off: there, statements that take
  long, such as the creation of an index, are few and meant; and a COMMIT that it interrupts would
  be acknowledged before a synchronous standby has it.
* ``row_security``: a policy that hides rows from us is an error, and not an incomplete answer.
* ``quote_all_identifiers``: the server's text of a function, which ``verify`` compares, would be
  another one.
* ``search_path``, see ``postgres.py``.

``default_transaction_read_only`` is kept: who sets it wants no writes, and they are refused.

Poolers
-------
A pooler such as PgBouncer may give each transaction another session.  Then what is set for a
session is lost, or worse, found by another client.  So a pooled connection sets nothing beyond
a transaction, and each of its transactions begins with the settings, sent in one message with
BEGIN.

We need not be told of a pooler.  When a client connects, it receives the number of the process
that serves it, with which it could cancel a statement.  A pooler has to invent that number, as it
has no process for the client yet; so it is not the one that ``pg_backend_pid`` returns.  Whether
the pooler gives sessions to clients or to transactions cannot be seen, and does not matter: what
is right for transactions is right for both.

Source: https://www.postgresql.org/docs/current/protocol-flow.html, "BackendKeyData".
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

# Versions that brought a setting, as libpq states them.
_IDLE_SESSION_TIMEOUT: Final = 140_000
_TRANSACTION_TIMEOUT: Final = 170_000

_LOOK: Final = """
    SELECT pg_backend_pid(),
           current_schema(),
           (SELECT nspname
            FROM pg_class
            JOIN pg_namespace ON pg_namespace.oid = relnamespace
            WHERE pg_class.oid = to_regclass('ledger_head')),
           quote_ident(%s),
           current_setting('search_path'),
           current_setting('synchronous_commit')
    """


class Session(NamedTuple):
    """What was found when a connection was made.

    Attributes:
        place: The schema in which the tables are, or will be; "" if there is none.
        is_pooled: Whether another session may serve each transaction.
        settings: Statements that set, in each transaction on a pooled connection, what is otherwise
            set once for the session; empty if the connection is not pooled.
    """

    place: str
    is_pooled: bool
    settings: str


def set_up(
    connection: Any,  # noqa: ANN401 - psycopg is optional
    schema: str | None,
    lock_timeout_ms: int,
) -> Session:
    """Set what our statements rely on, unless the connection is pooled.

    Args:
        connection: The driver's connection, new and in autocommit mode.
        schema: The schema that the tables are in; None is where the server puts tables by itself.
        lock_timeout_ms: How long a statement waits for a lock.
    """
    row = connection.execute(_LOOK, (schema or "",)).fetchone()
    pid, first, found, quoted_schema, path, synchronous = row
    is_pooled = pid != connection.info.backend_pid
    settings = {
        "lock_timeout": f"{lock_timeout_ms}ms",
        "synchronous_commit": "remote_apply" if synchronous == "remote_apply" else "on",
        "idle_in_transaction_session_timeout": "0",
        "row_security": "off",
        "quote_all_identifiers": "off",
        "standard_conforming_strings": "on",
    }
    if connection.info.server_version >= _TRANSACTION_TIMEOUT:
        settings["transaction_timeout"] = "0"
    if schema is not None:
        settings["search_path"] = quoted_schema
    elif found is not None and found != first:
        # A ledger is further back on the path.
        settings["search_path"] = f"{_quoted(found)}, {path}"
    place = str(schema or found or first or "")
    if is_pooled:
        # A statement that is prepared would be prepared in the session of one transaction.
        connection.prepare_threshold = None
        return Session(place, is_pooled, _of_transaction(settings))
    settings["default_transaction_isolation"] = "read committed"
    if connection.info.server_version >= _IDLE_SESSION_TIMEOUT:
        settings["idle_session_timeout"] = "0"
    calls = ", ".join(["set_config(%s, %s, false)"] * len(settings))
    connection.execute(
        f"SELECT {calls}",
        [text for setting in settings.items() for text in setting],
    )
    return Session(place, is_pooled, "")


def _of_transaction(settings: Mapping[str, str]) -> str:
    # Not with set_config: a SELECT would take the transaction's snapshot.
    statements = "".join(
        f"; SET LOCAL {name} = {value if name == 'search_path' else _literal(value)}"
        for name, value in settings.items()
    )
    # To the driver, a single one begins a parameter.
    return statements.replace("%", "%%")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
