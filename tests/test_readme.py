"""The README says what is true."""

import re
import tomllib
from pathlib import Path

import pytest

from scatflow.flow.job import parse

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "docs/gpu.md", "docs/schedules.md"]
PAGES += [
    "docs/runs.md",
    "docs/watching.md",
    "docs/scale.md",
    "docs/clusters.md",
    "docs/labelled.md",
]
PAGES += ["pipelines/README.md", "cluster/README.md"]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_lines_for_use_in_memory_run_and_give_the_shapes_they_state():
    (code,) = blocks("python")
    names = {}
    exec(code, names)  # our own README
    for line in code.splitlines():
        expression, _, comment = line.partition("#")
        shape = re.match(r"\s*(\([\d, ]+\))", comment)
        if shape is None or "detail" in expression:
            continue
        value = eval(expression.split(" = ")[-1], names)
        assert value.shape == tuple(int(n) for n in re.findall(r"\d+", shape[1])), line


def test_the_job_file_is_a_valid_job():
    (text,) = blocks("toml")
    assert tomllib.loads(text)["transform"]["boundary"] == "seamless"
    assert parse(text, Path("readme.toml")).engine.J == 10


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_of_the_repository(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert "@@" not in text
    for target in re.findall(r"\]\(([^)#]+)", text):
        if "://" not in target:
            assert (ROOT / page).parent.joinpath(target).exists(), target
