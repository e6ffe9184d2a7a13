"""Fixtures of the tests whose short versions are in other directories."""

from tests.contract.conftest import rabble
from tests.integration.test_crashes import killable
from tests.property.conftest import arena

__all__ = ["arena", "killable", "rabble"]
