"""Which backend serves an engine."""

from __future__ import annotations

import importlib
from typing import Any, cast

from scatflow.backends.protocol import Backend
from scatflow.errors import BackendError

BACKENDS = ("numpy", "plain")
"""Names that ``backend=`` accepts; each is a module of this package.

``plain`` is the reference that the others are compared with: a few lines of NumPy a verb.
"""


def check(name: Any) -> str | None:
    """Return a `backend` parameter if it is known."""
    if name is None or name in BACKENDS:
        return cast("str | None", name)
    raise BackendError(
        f"backend must be None or one of {', '.join(map(repr, BACKENDS))}, not {name!r}."
    )


def backend(name: str | None) -> Backend:
    """Return the backend of that name; None stands for NumPy."""
    module: Any = importlib.import_module(f"scatflow.backends.{check(name) or 'numpy'}")
    return cast(Backend, module)
