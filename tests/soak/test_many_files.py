"""A stranger's file of every kind, at every name that Ledger uses in a search index."""

from pathlib import Path

import pytest

from ledger.processes.composition import System
from tests.integration.strangers import KINDS
from tests.integration.test_strangers_files import NAMES_IN_THE_HOME, use_an_index_with


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES_IN_THE_HOME)
@pytest.mark.parametrize("when", ["before", "after"])
def test_nothing_that_has_a_name_of_ours_is_replaced(
    ledger: System, path: Path, kind: str, name: str, when: str
) -> None:
    use_an_index_with(ledger, path, kind=kind, name=name, when=when)
