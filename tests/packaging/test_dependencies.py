"""The declared dependencies, beside the file of their lowest versions."""

import re
import tomllib
from typing import Any, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.documents import ROOT

# They judge the code and are no part of what runs, so everybody has the newest.  The versions
# named in pyproject.toml were tried once.
ONLY_THE_NEWEST: Final = {
    "import-linter",
    "libfaketime",  # sets clocks in tests/soak, which runs with the newest of all
    "mypy",
    "pytest-cov",
    "ruff",
    "schemathesis",  # needs a newer pytest than an application must have
}


def declared(*groups: str) -> dict[str, Version]:
    """Return the lower bounds of the product's dependencies and of those extras."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for group in groups for line in extras[group])]
    requirements = [Requirement(line) for line in lines]
    return {
        canonicalize_name(one.name): lower_bound(one)
        for one in requirements
        if one.name != project["name"]
    }


def lower_bound(requirement: Requirement) -> Version:
    (lowest,) = (one.version for one in requirement.specifier if one.operator == ">=")
    return Version(lowest)


def test_the_lowest_versions_that_are_declared_are_those_that_are_tested() -> None:
    lines = (ROOT / "tests" / "lowest.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    tested = {canonicalize_name(name): Version(version) for name, version in pins}
    bounds = declared("postgres", "testing", "dev")

    assert tested == {name: bounds[name] for name in bounds.keys() - ONLY_THE_NEWEST}
    assert bounds.keys() >= ONLY_THE_NEWEST


def test_the_documents_name_each_dependency_with_its_lowest_version() -> None:
    table = (ROOT / "docs" / "dependencies.md").read_text()
    rows = re.findall(r"^\| \[([\w-]+)\][^|]*\| ([\d.]+)[^|]*\| \w", table, re.MULTILINE)

    assert {canonicalize_name(name): Version(version) for name, version in rows} == declared(
        "postgres", "testing"
    )
