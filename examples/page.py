"""Gather what the examples found into one page: ``python examples/page.py results/science``.

Each example writes its rows, its words and its picture's caption with :func:`record`; the page is
the table of all rows, and a section for each example. Nothing on it is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from dataclasses import asdict, dataclass
from pathlib import Path

ORDER = ("forda", "mnist", "seismic", "qm9")

HEAD = """# Results the field knows

`make science` fetches the data, runs the programs below, and writes this page. Settings are chosen
by cross-validation on the training data alone; Kymatio's coefficients go through the same steps,
with the same settings, in the same run.
"""

COLUMNS = ("", "published", "Kymatio, same run", "scatflow")


@dataclass(frozen=True)
class Result:
    """What one example found.

    Attributes
    ----------
    title : str
        The name of the data and the question.
    rows : list
        ``[what, published, Kymatio's, ours]``, as the table has them.
    text : str
        Data, steps and settings found; paragraphs are separated by empty lines.
    caption : str
        What the picture shows.
    """

    title: str
    rows: list[list[str]]
    text: str
    caption: str


def table(rows: list[list[str]]) -> str:
    """Return rows as a table of Markdown."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def record(result: Result, folder: Path | None, name: str) -> None:
    """Print a result, and keep it for the page if there is a folder for it."""
    print(f"{result.text}\n\n{table(result.rows)}", flush=True)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(asdict(result), indent=1), encoding="utf-8")


def arguments(description: str | None, name: str) -> argparse.Namespace:
    """Return what every example is told: where its data are, and where its results go."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data") / name)
    parser.add_argument("--picture", type=Path, help="file to draw into")
    parser.add_argument("--results", type=Path, help="folder to keep the row and the words in")
    return parser.parse_args()


def section(name: str, result: Result) -> str:
    """Return the part of the page that tells of one example."""
    paragraphs = [textwrap.fill(part, 100) for part in result.text.split("\n\n")]
    program = f"[examples/{name}.py](../examples/{name}.py) is the whole program."
    picture = f"![{result.caption}]({name}.png)"
    return "\n\n".join([f"## {result.title}", *paragraphs, program, picture]) + "\n"


def page(folder: Path) -> str:
    """Return the page of all results in a folder."""
    found = {}
    for name in ORDER:
        file = folder / f"{name}.json"
        if file.exists():
            found[name] = Result(**json.loads(file.read_text(encoding="utf-8")))
    rows = [row for result in found.values() for row in result.rows]
    return "\n".join([HEAD, table(rows), "", *(section(*one) for one in found.items())])


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, default=Path("docs/science.md"))
    options = parser.parse_args()
    options.output.write_text(page(options.folder).rstrip() + "\n", encoding="utf-8")
    print(options.output)


if __name__ == "__main__":
    main()
