"""Fixtures of the tests whose short versions are in other directories."""

from tests.contract.conftest import rabble
from tests.integration.test_crashes import killable
from tests.integration.test_handlers import handler, queue
from tests.integration.test_rebuild_under_load import filled
from tests.integration.test_release_before import bare
from tests.integration.test_search import folder
from tests.integration.test_search_server import kind, server
from tests.integration.test_strangers_files import ledger, path
from tests.property.conftest import arena

__all__ = [
    "arena",
    "bare",
    "filled",
    "folder",
    "handler",
    "killable",
    "kind",
    "ledger",
    "path",
    "queue",
    "rabble",
    "server",
]
