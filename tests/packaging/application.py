"""An application whose packages have the names of this repository's top-level directories."""

from pathlib import Path
from typing import Final

from tests.packaging.conftest import LINKED
from tests.packaging.environment import Environment

ALEMBIC_RAN: Final = "alembic-ran"

_FILES: Final = {
    "api/orders.py": 'PLACE = "the application\'s api"\n',
    "projections/sales.py": 'PLACE = "the application\'s projections"\n',
    "migrations/env.py": f"""
from pathlib import Path

Path("{ALEMBIC_RAN}").touch()
""",
    "migrations/versions/0001_orders.py": """
revision = "0001"
down_revision = None


def upgrade():
    raise AssertionError("this is the application's")
""",
    "alembic.ini": "[alembic]\nscript_location = migrations\n",
    # Each job waits until the other has started too, so a single process never completes them.
    "jobs.py": """
import os
import time
from pathlib import Path

import ledger
from api.orders import PLACE as API
from projections.sales import PLACE as PROJECTIONS

queue = ledger.connect()


@queue.process("order", concurrency=1)
def order(job):
    begun = Path("begun")
    begun.mkdir(exist_ok=True)
    (begun / str(os.getpid())).touch()
    while len(list(begun.iterdir())) < 2 and not job.expired:
        time.sleep(0.01)
    return {"order": job.data, "process": os.getpid(), "from": [API, PROJECTIONS]}
""",
    "order.py": """
import json

import ledger

queue = ledger.connect()
jobs = [queue.create("order", number) for number in range(2)]
print(json.dumps([job.wait(timeout=60) for job in jobs]))
""",
    "test_orders.py": """
from api.orders import PLACE
from ledger.testing import drain


def test_an_order_is_done(ledger_queue):
    @ledger_queue.process("order")
    def order(job):
        return PLACE

    job = ledger_queue.create("order")
    drain(ledger_queue)

    assert job.result == "the application's api"
""",
}


class Application:
    """An application in its own directory, with Ledger installed.

    Args:
        folder: Directory in which it is written and run.
        environment: Environment with Ledger.
        initialised: True if its packages have an ``__init__.py``.
    """

    def __init__(self, folder: Path, environment: Environment, *, initialised: bool) -> None:
        self.folder = folder
        self.environment = environment
        self.url = f"sqlite:///{folder / 'ledger.db'}"
        for name, text in _FILES.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        if initialised:
            for name in LINKED:
                (folder / name / "__init__.py").touch()

    @property
    def alembic_ran(self) -> bool:
        """True if its own Alembic scripts have been run."""
        return (self.folder / ALEMBIC_RAN).exists()

    def run(self, tool: str, *arguments: str) -> str:
        """Run an installed command in the application's directory, and return its output."""
        return self.environment.run(tool, *arguments, cwd=self.folder, LEDGER_DATABASE_URL=self.url)
