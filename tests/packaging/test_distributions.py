"""What is built holds the package ``ledger`` and nothing else, from whichever sources."""

import shutil
import tarfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Final
from zipfile import ZipFile

import pytest

from tests.packaging import environment as environments
from tests.packaging.conftest import FOLDERS, LINKED, ROOT, build

VERSION: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
METADATA: Final = f"ledger_queue-{VERSION}.dist-info"


def product_files() -> dict[str, bytes]:
    """Return the content of each file below the top-level folders, by its installed name."""
    return {
        str(path.relative_to(ROOT) if top == "ledger" else "ledger" / path.relative_to(ROOT)): (
            path.read_bytes()
        )
        for top in FOLDERS
        for path in (ROOT / top).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def names_in(wheel: Path) -> list[str]:
    with ZipFile(wheel) as archive:
        return sorted(archive.namelist())


def contents(wheel: Path) -> dict[str, bytes]:
    with ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def unpacked_sdist(folder: Path) -> Path:
    """Return the sources as an sdist brings them."""
    with tarfile.open(build("sdist", ROOT, folder / "sdist")) as archive:
        archive.extractall(folder, filter="data")
    return folder / f"ledger_queue-{VERSION}"


def unpacked_zip(folder: Path) -> Path:
    """Return the sources as pip unpacks a zip archive of the repository, as GitHub serves it.

    Of each link, pip makes a file that holds where the link led to.
    """
    sources = folder / "sources"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, sources / name, symlinks=True)
    for name in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, sources)
    for name in LINKED:
        link = sources / "ledger" / name
        target = link.readlink()
        link.unlink()
        link.write_text(str(target))
    return sources


def test_the_wheel_holds_every_product_file_once_and_no_other_name(wheel: Path) -> None:
    files = product_files()
    metadata = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")

    assert names_in(wheel) == sorted([*files, *(f"{METADATA}/{name}" for name in metadata)])
    assert {name: contents(wheel)[name] for name in files} == files


def test_the_wheel_says_once_that_the_package_is_typed(wheel: Path) -> None:
    # A marker counts for all packages below it.
    assert [name for name in names_in(wheel) if name.endswith("py.typed")] == ["ledger/py.typed"]


def test_the_sdist_is_laid_out_as_the_repository(tmp_path: Path) -> None:
    sources = unpacked_sdist(tmp_path)

    assert {path.name for path in sources.iterdir() if path.is_dir()} == set(FOLDERS)
    assert [path for path in sources.rglob("*") if path.is_symlink()] == []


@pytest.mark.parametrize("unpacked", [unpacked_sdist, unpacked_zip])
def test_an_archive_of_the_sources_builds_the_same_wheel(
    unpacked: Callable[[Path], Path], wheel: Path, tmp_path: Path
) -> None:
    built = build("wheel", unpacked(tmp_path), tmp_path / "wheel")

    assert contents(built) == contents(wheel)


def test_an_editable_install_imports_the_checkout_through_its_links(tmp_path: Path) -> None:
    editable = build("wheel:editable", ROOT, tmp_path / "wheel")
    environment = environments.create(tmp_path / "environment", editable)

    imported = environment.run(
        "python",
        "-c",
        "import ledger.api.app, ledger.projections.replay; "
        "print(ledger.api.app.__file__, ledger.projections.replay.__file__)",
        cwd=tmp_path,
    )

    assert imported.split() == [
        str(ROOT / "ledger" / "api" / "app.py"),
        str(ROOT / "ledger" / "projections" / "replay.py"),
    ]
