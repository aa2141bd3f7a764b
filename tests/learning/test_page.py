"""The page on learning runs from top to bottom."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "learning.md"


# Zarr says so of text of fixed length.
@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
def test_the_lines_of_the_page_run_in_their_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(code, names)  # our own page
    assert names["batch"].X.shape[1] == names["ds"].sizes["path"]
    assert len(names["windows"]) < names["ds"].sizes["time"] * 2  # There is a gap.
    assert names["pca"].components_.shape[0] == 5
