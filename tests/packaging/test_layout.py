"""In the checkout, the top-level folders are imported under one name: as parts of ``ledger``."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.integration.servers import Server, surroundings, tool
from tests.packaging.conftest import FOLDERS, LINKED, ROOT

# These do something when they are imported.
PROGRAMS: Final = ("ledger.__main__", "ledger.api.wsgi", "ledger.migrations.env")
IMPORTING_ALL: Final = """
import json, pkgutil, sys
from importlib import import_module
import ledger

for module in pkgutil.walk_packages(ledger.__path__, "ledger."):
    if module.name not in sys.argv[1:]:
        import_module(module.name)
files = [(name, getattr(module, "__file__", None)) for name, module in sys.modules.items()]
print(json.dumps([(name, file) for name, file in files if file]))
"""


def test_the_three_folders_in_the_package_are_links_to_the_top_level() -> None:
    links = {
        path.name: str(path.readlink()) for path in (ROOT / "ledger").iterdir() if path.is_symlink()
    }

    assert links == {
        "api": "../api",
        "migrations": "../migrations",
        "projections": "../projections",
    }
    assert not any((ROOT / name).is_symlink() for name in FOLDERS)


def test_every_module_is_imported_from_one_file_under_one_name(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING_ALL, *PROGRAMS],
        # What lies in the working directory is imported first, also `api`.
        cwd=ROOT,
        env=surroundings(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    imported: dict[Path, list[str]] = {}
    for name, file in json.loads(done.stdout):
        imported.setdefault(Path(file).resolve(), []).append(name)

    expected = {
        path: [module_name(path)]
        for top in FOLDERS
        for path in (ROOT / top).rglob("*.py")
        # Alembic loads its versions by their path.
        if module_name(path) not in PROGRAMS and path.parent.name != "versions"
    }
    assert {path: imported.get(path) for path in expected} == expected


def module_name(path: Path) -> str:
    """Return the one name under which a product file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] in LINKED:
        parts = ("ledger", *parts)
    return ".".join(parts).removesuffix(".__init__")


@pytest.mark.parametrize("folder", [*FOLDERS, "tests"])
def test_ruff_refuses_the_bare_names(folder: str) -> None:
    statements = ("import {0}", "import {0}.app", "from {0} import app", "from {0}.app import App")

    done = subprocess.run(
        [
            *(tool("ruff"), "check", "--no-cache", "--output-format", "json"),
            *("--stdin-filename", f"{folder}/written.py", "-"),
        ],
        cwd=ROOT,
        input="".join(f"{each.format(name)}\n" for each in statements for name in LINKED),
        capture_output=True,
        text=True,
        check=False,
    )

    banned = [each for each in json.loads(done.stdout) if each["code"] == "TID251"]
    assert [(each["location"]["row"], each["message"].rpartition(": ")[2]) for each in banned] == [
        (number, f"import ledger.{name}")
        for number, name in enumerate(LINKED * len(statements), start=1)
    ]


def test_gunicorn_serves_the_folder_of_the_checkout(tmp_path: Path) -> None:
    command = (tool("gunicorn"), "api.wsgi:app", "--chdir", str(ROOT))

    with Server(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path, command=command) as server:
        assert server.create("order") == 1
