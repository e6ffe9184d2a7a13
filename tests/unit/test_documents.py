"""README.md and docs/ say what the code says, and their links lead somewhere."""

import re
import tomllib
from pathlib import Path
from typing import Final

import pytest

from tests import documents
from tests.documents import DOCS, PARTS, ROOT

# Not a dependency: what an extra of ours is called when another extra asks for it.
OURS: Final = "ledger-queue"
EVERY_PAGE: Final = pytest.mark.parametrize(
    "page", documents.pages(), ids=lambda page: str(page.relative_to(ROOT))
)


@pytest.mark.parametrize("page", PARTS, ids=lambda page: page.name)
def test_the_generated_parts_are_up_to_date(page: Path) -> None:
    text = page.read_text()

    assert documents.written(text, PARTS[page]) == text


# --- links


def broken(text: str, folder: Path) -> list[str]:
    """Return the relative links of a page in *folder* that lead nowhere."""
    relative = [link for link in documents.links(text) if not re.match(r"[a-z]+:", link)]
    return [link for link in relative if not _leads_somewhere(link, text, folder)]


def _leads_somewhere(link: str, text: str, folder: Path) -> bool:
    name, _, anchor = link.partition("#")
    target = (folder / name).resolve()
    if not target.exists() or not target.is_relative_to(ROOT):
        return False
    return not anchor or anchor in documents.anchors(target.read_text() if name else text)


@EVERY_PAGE
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert broken(page.read_text(), page.parent) == []


def test_links_that_lead_nowhere_are_found() -> None:
    text = """
# A: `title`

[a](#a-title) [b](#b) [c](queue.md#creating-jobs) [d](queue.md#d) [e](none.md) [f](../ledger)
[g](https://example.org/none) `[h](code.md)` [`i`](i.md) [j](../../../tmp)
"""

    assert broken(text, DOCS) == ["#b", "queue.md#d", "none.md", "i.md", "../../../tmp"]


def test_the_index_lists_every_page() -> None:
    index = DOCS / "index.md"
    listed = {link for link in documents.links(index.read_text()) if link.endswith(".md")}

    assert listed == {
        "../README.md",
        *(page.name for page in DOCS.glob("*.md") if page != index),
    }


# --- dependencies


def test_the_page_of_dependencies_names_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    requirements = [*project["dependencies"], *(each for extra in extras for each in extra)]
    names = {re.split(r"[^\w.-]", each)[0].lower() for each in requirements} - {OURS}
    page = (DOCS / "dependencies.md").read_text()
    linked = {title.lower() for title in re.findall(r"\[([^\]]+)\]\(https:", page)}

    assert [name for name in sorted(names) if not _is_named(name, page)] == []
    assert linked <= names


def _is_named(name: str, page: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", page, re.IGNORECASE) is not None
