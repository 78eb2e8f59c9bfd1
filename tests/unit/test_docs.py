"""What the README and the documents name is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
TESTS = {
    name for path in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_a_document_links_to_exists(document):
    for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
        assert "//" in target or (document.parent / target).exists(), target


def anchors(document):
    """The names by which a document's headings are linked to, as GitHub and others make them."""
    headings = re.findall(r"^#+ (.*)", re.sub(r"(?ms)^```\n.*?^```$", "", document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_heading_that_a_document_links_to_exists(document):
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", document.read_text()):
        there = document.parent / target if target else document
        assert anchor in anchors(there), f"{target}#{anchor}"


def test_every_page_is_for_somebody_whom_the_readme_sends_there():
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert pages <= set(re.findall(r"\]\((docs/[^)#]+)\)", (ROOT / "README.md").read_text()))


def test_the_readme_is_short_and_begins_with_the_two_commands():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 160
    first = re.search(r"(?ms)^```\n(.*?)^```$", text)
    assert [line.partition("#")[0].split() for line in first[1].splitlines()] == [["make", "demo"], ["make", "test"]]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_module_that_a_document_names_exists(document):
    roots = (ROOT, ROOT / "shared", ROOT / "shared" / "qkdrelay", ROOT / "services")
    for name in re.findall(r"`([\w./-]+/[\w-]+\.(?:py|sh))`", document.read_text()):
        assert any((root / name).exists() for root in roots), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_test_that_a_document_relies_on_exists(document):
    assert set(re.findall(r"`(test_[a-z0-9_]+)`", document.read_text())) <= TESTS


def test_the_guarantees_are_each_attacked_by_a_test():
    section = (ROOT / "docs" / "claims.md").read_text().partition("## What is guaranteed")[2].partition("##")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 14
    assert all("](../tests/" in row for row in rows)


def test_what_the_standard_requires_is_each_shown_by_a_test():
    section = (ROOT / "docs" / "applications.md").read_text().partition("## Conformance")[2].partition("##")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 16
    assert all(re.search(r"`test_\w+`[^|]*\|$", row) for row in rows)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_make_target_that_a_document_names_exists(document):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:^|`)make ([a-z]+)", document.read_text(), re.MULTILINE)
    assert set(named) <= targets
