"""Who may import whom: the direction of dependency, read from the source."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "scatflow"

LOW = {"wavelets", "backends", "blocks", "archive"}  # do not know each other
ROOMS = {
    "errors": set(),
    **{room: {"errors"} for room in LOW},
    "engines": {"wavelets", "backends", "errors"},
    "dataset": {"engines", "blocks", "errors"},
    "pictures": {"dataset", "engines", "errors"},
    "flow": {"errors", *LOW, "engines", "dataset", ""},
    "cli": {"errors", *LOW, "engines", "dataset", "pictures", "flow", ""},
    "labelled": {"errors", *LOW, "engines", "dataset", "flow"},
    "learning": {"errors", "dataset", "labelled"},
    "": {"engines", "errors", "labelled"},  # scatflow/__init__.py, the public names
    **{door: {"engines", "errors", ""} for door in ("numpy", "torch", "sklearn", "kymatio")},
    "molecules": {"errors"},
    "__main__": {"cli"},
}
"""Which rooms of scatflow each room may import, besides itself."""

OUTSIDE = {
    "dask": {"flow", "labelled", "learning"},
    "distributed": {"flow"},
    "dask_jobqueue": {"flow.cluster.batch"},
    "dask_cuda": {"flow.cluster.cuda"},
    "dask_kubernetes": {"flow.cluster.kubernetes"},
    "dask_gateway": {"flow.cluster.gateway"},
    "dask_mpi": {"flow.cluster.mpi"},
    "mpi4py": {"flow.cluster.mpi"},
    "torch": {"backends.torch", "torch", "learning.tensors"},
    "sklearn": {"sklearn", "learning.estimators"},
    "cupy": {"backends.cupy"},
    "jax": set(),  # speaks the array API standard, as others do
    "numba": {"backends"},
    "xarray": {"archive", "dataset", "flow", "labelled", "learning", "pictures", "cli"},
    "zarr": {"archive", "dataset", "flow", "pictures", "cli"},
    "pydantic": {"flow"},
    "typer": {"cli"},
    "matplotlib": {"pictures"},
    "holoviews": {"pictures.browser"},
    "panel": {"pictures.browser"},
}
"""Which rooms, or modules of a room, may import a library; those not listed are free to all."""


def imports(source, module):
    """Yield the dotted names that a module imports, wherever in its text, with their lines."""
    package = module if module.endswith("__init__") else module.rpartition(".")[0]
    package = package.removesuffix(".__init__").split(".")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            if base == "scatflow":  # from scatflow import flow
                for alias in node.names:
                    room = alias.name if alias.name in ROOMS else ""
                    yield f"scatflow.{room}".rstrip("."), node.lineno
            else:
                yield base, node.lineno
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module"
            and node.args
        ):
            name = node.args[0]
            if isinstance(name, ast.JoinedStr):  # a fixed beginning tells the room
                name = name.values[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield name.value.rstrip("."), node.lineno


def violations(source, module):
    """List what a module imports and may not. `module` is dotted: ``scatflow.engines.plan``."""
    parts = module.removesuffix(".__init__").split(".")[1:]
    room, inside = (parts[0] if parts else ""), ".".join(parts)
    if room not in ROOMS:
        return [f"{module}: the table of rooms does not know {room!r}"]
    found = []
    for name, line in imports(source, module):
        library, _, rest = name.partition(".")
        where = f"{module}:{line} imports {name}"
        if library == "scatflow":
            target = rest.partition(".")[0]
            if target != room and target not in ROOMS[room]:
                found.append(f"{where}, but {room!r} may know only {sorted(ROOMS[room])}")
        elif library in OUTSIDE:
            allowed = OUTSIDE[library]
            if not any(inside == a or inside.startswith(f"{a}.") for a in allowed):
                found.append(f"{where}, which belongs to {sorted(allowed)}")
        elif room == "blocks" and library not in sys.stdlib_module_names:
            found.append(f"{where}, but blocks holds integers and the standard library only")
    return found


MODULES = sorted(PACKAGE.rglob("*.py"))


def dotted(path):
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_a_module_imports_only_what_its_room_may(path):
    assert violations(path.read_text(encoding="utf-8"), dotted(path)) == []


def test_every_room_in_the_house_is_in_the_table():
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES}
    assert rooms - {"__init__"} <= set(ROOMS)
    assert {"errors", "wavelets", "backends", "engines", "blocks", "dataset"} <= rooms


def test_the_table_has_no_circles():
    known = {room: set(allowed) - {""} for room, allowed in ROOMS.items() if room}
    while known:
        free = {room for room, allowed in known.items() if not allowed & set(known)}
        assert free, f"circle among {sorted(known)}"
        known = {room: allowed for room, allowed in known.items() if room not in free}


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("scatflow.wavelets.morlet", "from scatflow.backends import numpy"),
        ("scatflow.backends.numpy", "import scatflow.wavelets.support"),
        ("scatflow.archive.source", "from scatflow.blocks import tiling"),
        ("scatflow.engines.plan", "from scatflow.dataset import template"),
        ("scatflow.engines.plan", "from ..flow import run"),
        ("scatflow.engines.__init__", "from ..flow import run"),
        ("scatflow.engines.plan", "from scatflow import flow"),
        ("scatflow.engines.plan", "from scatflow import Scattering1D"),
        ("scatflow.engines.plan", "def f():\n    import xarray as xr"),
        ("scatflow.engines.plan", "if TYPE_CHECKING:\n    from xarray import Dataset"),
        ("scatflow.engines.plan", "importlib.import_module('dask.array')"),
        ("scatflow.engines.plan", "import_module(f'scatflow.flow.{name}')"),
        ("scatflow.flow.run", "from scatflow.pictures import show"),
        ("scatflow.flow.run", "from scatflow.cli import main"),
        ("scatflow.dataset.write", "import dask"),
        ("scatflow.pictures.maps", "from scatflow.backends import choose"),
        ("scatflow.backends.numpy", "import torch"),
        ("scatflow.backends.torch", "import cupy"),
        ("scatflow.blocks", "import numpy as np"),
        ("scatflow.errors", "from scatflow.engines import Engine"),
        ("scatflow.__init__", "from scatflow.flow import run"),
        ("scatflow.helpers", "import math"),
        ("scatflow.common.tools", ""),
    ],
)
def test_a_planted_violation_is_caught(module, line):
    assert len(violations(line, module)) == 1


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("scatflow.engines.plan", "from scatflow.backends.protocol import Backend"),
        ("scatflow.engines.plan", "from .cascade import Tree"),
        ("scatflow.engines.__init__", "from . import plan"),
        ("scatflow.backends.torch", "import torch.fft"),
        ("scatflow.torch", "from torch import nn"),
        ("scatflow.backends.cupy", "import cupy as cp"),
        ("scatflow.backends.choose", "importlib.import_module(f'scatflow.backends.{name}')"),
        ("scatflow.blocks", "import math\nfrom scatflow.errors import JobError"),
        ("scatflow.flow.run", "import scatflow\nfrom dask.distributed import Client"),
        ("scatflow.cli.__init__", "from scatflow.pictures import show\nimport numpy"),
        ("scatflow.__init__", "from scatflow.engines import Scattering1D"),
    ],
)
def test_what_the_table_allows_is_let_through(module, line):
    assert violations(line, module) == []
