"""The page on labelled arrays runs from top to bottom."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "labelled.md"


@pytest.mark.filterwarnings("error")
def test_the_lines_of_the_page_run_in_their_order(capsys):
    names = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(code, names)  # our own page
    assert names["ds"]["scattering"].dims == ("station", "path", "time")
    assert names["ds"].xi1.attrs["units"] == "Hz"
    assert "wavelets" not in capsys.readouterr().err
