"""Which backend serves an engine, and who said so.

An engine's argument goes before the variable ``SCATFLOW_BACKEND_1D`` (2D, 3D), that before
``SCATFLOW_BACKEND``, that before the user's configuration file, and where nobody says anything the
input decides: tensors are torch's, arrays on GPUs CuPy's, everything else NumPy's.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from scatflow.backends.protocol import Backend
from scatflow.errors import BackendError

BACKENDS = ("numpy", "plain", "torch", "cupy")
"""Names that ``backend=`` accepts; each is a module of this package.

``plain`` is the reference that the others are compared with: a few lines a verb. It serves arrays
of any library that speaks the array API standard.
"""

SERVED_BY = {"skcuda": "cupy"}
"""Names of Kymatio's that are accepted for others.

scikit-cuda's last release no longer imports; CuPy has the bindings of cuFFT and cuBLAS that it was
used for.
"""

HOST = ("numpy", "plain")
"""Those that compute NumPy's arrays."""

NEEDS = {"numpy": "numpy", "plain": "numpy", "torch": "torch", "cupy": "cupy"}
"""What has to be installed for each."""

INSTALLED_BY = {
    "torch": 'pip install "scatflow[torch]"',
    "cupy": 'pip install "scatflow[cuda12]" (or "scatflow[cuda13]", as the driver is)',
}
"""The line that installs it."""

LIBRARIES = ("torch", "cupy")
"""Libraries whose arrays have a backend of the same name.

Of the rest, what speaks the array API standard is the reference's, and everything else NumPy's.
"""

STANDARD = "array API"
"""What :func:`library` calls the libraries that are known by the standard they speak alone."""


class Choice(NamedTuple):
    """A backend and who chose it."""

    name: str | None
    """None follows the input."""
    why: str


def check(name: Any, said_by: str = "backend") -> str | None:
    """Return a `backend` parameter by its own name, if it is known."""
    if isinstance(name, str):
        name = SERVED_BY.get(name, name)
    if name is None or (isinstance(name, str) and name in BACKENDS):
        return name
    known = ", ".join(map(repr, (*BACKENDS, *SERVED_BY)))
    raise BackendError(
        f"{said_by} must be None or one of {known}, not {name!r}, which is not supported and can "
        f"not be called. {_remedies()}"
    )


def chosen(name: str | None, ndim: int) -> Choice:
    """Return the backend of an engine of so many axes, of which `name` is the argument."""
    if name is not None:
        return Choice(name, "by the engine")
    for variable in (f"SCATFLOW_BACKEND_{ndim}D", "SCATFLOW_BACKEND"):
        if os.environ.get(variable):
            return Choice(check(os.environ[variable], variable), f"by {variable}")
    path, settings = user_settings()
    for key in (f"backend_{ndim}d", "backend"):
        if key in settings:
            return Choice(check(settings[key], f"{key} in {path}"), f"by {path}")
    return Choice(None, "by the input")


@lru_cache(maxsize=1)
def user_settings() -> tuple[Path, dict[str, Any]]:
    """Return the user's configuration file and what is in it; the table ``run`` is for runs."""
    # The public names import nothing but NumPy and SciPy.
    import platformdirs

    path = platformdirs.user_config_path("scatflow") / "config.toml"
    if not path.is_file():
        return path, {}
    try:
        settings = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BackendError(f"{path} is not TOML: {error}. Mend or remove it.") from error
    known = {"backend", *(f"backend_{ndim}d" for ndim in (1, 2, 3)), "run"}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise BackendError(
            f"{path} has {', '.join(unknown)}, which nothing reads. It may have "
            f"{', '.join(sorted(known))}."
        )
    return path, settings


def installed(name: str) -> bool:
    """Return whether what a backend needs is there."""
    return importlib.util.find_spec(NEEDS[name]) is not None


def _remedies() -> str:
    there = ", ".join(filter(installed, BACKENDS))
    missing = [line for name, line in INSTALLED_BY.items() if not installed(name)]
    return f"Installed: {there}." + (f" The rest: {'; '.join(missing)}." if missing else "")


def library(x: Any) -> str:
    """Return the library of an array, without importing any."""
    roots = {kind.__module__.partition(".")[0] for kind in type(x).__mro__}
    found = next((name for name in LIBRARIES if name in roots), None)
    if found is not None:
        return found
    if isinstance(x, np.ndarray | np.generic):
        return "numpy"
    # JAX's arrays on a GPU have both interfaces: they stay JAX's, and may be traced.
    if hasattr(x, "__array_namespace__"):
        return STANDARD
    return "cupy" if hasattr(x, "__cuda_array_interface__") else "numpy"


def of_devices(name: str | None) -> str:
    """Return the backend that an engine is prepared with on a device, where `name` was chosen."""
    if name in LIBRARIES:
        return str(name)
    return "cupy" if installed("cupy") and not installed("torch") else "torch"


def present(name: str) -> None:
    """Say so if what a backend needs is not installed."""
    if not installed(name):
        raise BackendError(f"backend={name!r} needs {NEEDS[name]}. {_remedies()}")


def module(name: str) -> Any:
    """Return a backend's module."""
    present(name)
    try:
        return importlib.import_module(f"scatflow.backends.{name}")
    except ImportError as error:
        raise BackendError(
            f"backend={name!r} needs {NEEDS[name]}, which is installed but does not import "
            f"({str(error).strip()}). Install it with the libraries that it asks for: "
            f"{INSTALLED_BY.get(name, 'pip install scatflow')}."
        ) from error


def backend(name: str, device: Any = None) -> Backend:
    """Return the backend of that name, on a device if it has any."""
    found = module(name)
    if name == "plain":
        return cast(Backend, found.on(np, device))
    return cast(Backend, found if name in HOST else found.on(device))
