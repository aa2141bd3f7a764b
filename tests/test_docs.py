"""The pages say what is true, and their links lead somewhere."""

import doctest
import re
import tomllib
from pathlib import Path

import pytest
import yaml

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.md"))


@pytest.mark.parametrize("page", ["choosing.md", "machine.md", "seamless.md"])
def test_what_a_page_computes_gives_what_it_shows(page):
    failed, tried = doctest.testfile(
        str(DOCS / page), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE
    )
    assert tried > 0
    assert failed == 0


def anchors(page):
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_to_files_and_headings_that_are_there(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_table_of_contents():
    listed = (DOCS / "index.md").read_text(encoding="utf-8")
    missing = [p.stem for p in PAGES if not re.search(rf"^{p.stem}$", listed, re.MULTILINE)]
    assert missing == ["index"]


def test_the_citation_names_this_release_and_the_papers():
    root = DOCS.parent
    cited = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    code = (root / "scatflow" / "__init__.py").read_text(encoding="utf-8")
    assert f'__version__ = "{cited["version"]}"' in code
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert cited["license"] == project["license"]
    mathematics = (DOCS / "mathematics.md").read_text(encoding="utf-8")
    dois = [paper["doi"] for paper in cited["references"] if "doi" in paper]
    assert len(dois) == 5
    assert all(doi in mathematics for doi in dois)


def test_every_doi_is_well_formed_and_spelled_one_way():
    root = DOCS.parent
    texts = [*root.glob("*.md"), *root.glob("*.cff"), *PAGES]
    texts += [p for folder in ("scatflow", "examples") for p in (root / folder).rglob("*.py")]
    spelled = {}
    for path in texts:
        text = path.read_text(encoding="utf-8")
        for doi in re.findall(r"(?:doi:\s*|doi\.org/)([^\s\"'<>\]`\\]+)", text):
            doi = doi.rstrip(".,;:)")
            assert re.fullmatch(r"10\.\d{4,9}/[\w.()/-]+", doi), f"{path.name}: {doi}"
            spelled.setdefault(doi.lower(), set()).add(doi)
    assert len(spelled) >= 5
    assert [names for names in spelled.values() if len(names) > 1] == []
