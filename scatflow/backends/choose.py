"""Which backend serves an engine."""

from __future__ import annotations

import importlib
from typing import Any, cast

from scatflow.backends.protocol import Backend
from scatflow.errors import BackendError

BACKENDS = ("numpy", "plain", "torch")
"""Names that ``backend=`` accepts; each is a module of this package.

``plain`` is the reference that the others are compared with: a few lines of NumPy a verb.
"""

HOST = ("numpy", "plain")
"""Those that compute NumPy's arrays."""

LIBRARIES = ("torch",)
"""Libraries whose arrays have a backend of the same name; whatever else is NumPy's."""

REMEDIES = {"torch": 'pip install "scatflow[torch]"'}


def check(name: Any) -> str | None:
    """Return a `backend` parameter if it is known."""
    if name is None or name in BACKENDS:
        return cast("str | None", name)
    raise BackendError(
        f"backend must be None or one of {', '.join(map(repr, BACKENDS))}, not {name!r}."
    )


def library(x: Any) -> str:
    """Return the library of an array, without importing any."""
    roots = {kind.__module__.partition(".")[0] for kind in type(x).__mro__}
    return next((name for name in LIBRARIES if name in roots), "numpy")


def module(name: str) -> Any:
    """Return a backend's module."""
    try:
        return importlib.import_module(f"scatflow.backends.{name}")
    except ModuleNotFoundError as error:
        raise BackendError(
            f"backend={name!r} needs {error.name}, which is not installed. Install it: "
            f"{REMEDIES[name]}."
        ) from error


def backend(name: str, device: Any = None) -> Backend:
    """Return the backend of that name, on a device if it has any."""
    found = module(name)
    return cast(Backend, found if name in HOST else found.on(device))
