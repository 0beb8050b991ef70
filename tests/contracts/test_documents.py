"""Links of the documents lead somewhere, and decisions stay short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.contracts.source import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)|<img[^>]+src=\"([^\"]+)\"")
MOST_LINES = 40


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    targets = [a or b for a, b in LINK.findall(path.read_text(encoding="utf-8"))]
    local = [target for target in targets if "://" not in target and "@" not in target]
    missing = [target for target in local if not (path.parent / target).exists()]
    assert not missing, f"{path.name} links to {missing}"


def test_decisions_are_short_and_numbered_once() -> None:
    records = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    numbers = [path.name[:4] for path in records]
    assert len(set(numbers)) == len(numbers), numbers
    long = [p.name for p in records if len(p.read_text().splitlines()) > MOST_LINES]
    assert not long, f"more than {MOST_LINES} lines: {long}"


def test_the_index_of_decisions_names_each_by_its_title() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    for path in sorted(folder.glob("[0-9]*.md")):
        number, title = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ").split(": ", 1)
        assert f"- [{number}]({path.name}): {title}" in index, f"{path.name} is not in the index"


def test_every_make_target_in_the_documents_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), flags=re.M))
    for path in DOCUMENTS:
        spoken = set(re.findall(r"`make ([a-z-]+)", path.read_text(encoding="utf-8")))
        assert spoken <= targets, f"{path.name}: {spoken - targets}"
