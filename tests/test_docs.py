"""What the documents point at is there: links with their headings, pictures, files, commands and their flags."""

import importlib.util
import re
from pathlib import Path

import pytest

from experiments.flags import Flags

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks" / "README.md"])
LINK = re.compile(r"\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
MODULE = re.compile(r"python -m ((?:experiments|launch|benchmarks)\.[a-z_]+)")
FILE = re.compile(r"`((?:w4s_jax|experiments|tests|launch|benchmarks|docs)/[\w/.]+)`")
RECORD = ("CHANGELOG.md", "LOG.md")
"""Pages that speak of what once was."""


def text_of(page):
    return page.read_text(encoding="utf-8")


def anchors(page):
    """The headings of a page as GitHub links them."""
    prose = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def flags_of(command):
    """The names of all flags of a command."""
    return {name for found in vars(command).values() if isinstance(found, Flags) for name in found.values}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_the_repository_leads_somewhere(page):
    broken = []
    for link in LINK.findall(text_of(page)):
        name, _, heading = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if "://" not in link and not (target.exists() and (not heading or heading in anchors(target))):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_names_is_there(page):
    assert [name for name in MODULE.findall(text_of(page)) if importlib.util.find_spec(name) is None] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in RECORD], ids=lambda page: page.name)
def test_every_file_that_a_page_names_is_there(page):
    names = [name for name in FILE.findall(text_of(page)) if "NAME" not in name]
    assert [name for name in names if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(text_of(page))], ids=lambda page: page.name)
def test_every_flag_of_a_command_that_a_page_shows_is_known_to_it(page):
    unknown = []
    for line in "\n".join(BLOCK.findall(text_of(page))).replace("\\\n", " ").splitlines():
        found = re.search(r"python -m (experiments\.[a-z_]+)([^#]*)", line)
        if found:
            known = {*flags_of(importlib.import_module(found[1])), "flagfile"}
            unknown += [flag for flag in re.findall(r" --(\w+)", found[2]) if flag not in known]
    assert unknown == []


def test_the_index_names_every_page():
    listed = set(LINK.findall(text_of(ROOT / "docs" / "README.md")))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"} <= listed
