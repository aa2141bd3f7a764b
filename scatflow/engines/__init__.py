"""Pure transforms: spec, plan, apply. No files, no cluster, no labels."""

from __future__ import annotations

import dataclasses
from typing import Any

from scatflow.engines.engine import Engine
from scatflow.engines.plan import CanonicalGrid, Plan
from scatflow.engines.scattering1d import Scattering1D
from scatflow.engines.scattering2d import Scattering2D
from scatflow.engines.scattering3d import HarmonicScattering3D
from scatflow.engines.timefrequency import TimeFrequencyScattering
from scatflow.errors import ParameterError

ENGINES: dict[str, type[Engine]] = {
    engine.kind: engine
    for engine in (Scattering1D, Scattering2D, HarmonicScattering3D, TimeFrequencyScattering)
}
"""The engine of each ``kind`` in a job file or a dataset."""

NEEDED = {
    "J": "log2 of its largest scale",
    "J_fr": "log2 of its largest scale along log-frequency",
    "Q": "its wavelets per octave",
}
"""What parameters without a default are."""


def engine_from_dict(parameters: dict[str, Any]) -> Engine:
    """Make the engine that :meth:`~scatflow.engines.engine.Engine.to_dict` described.

    Parameters
    ----------
    parameters : dict
        `kind` and the engine's parameters by name; lists stand for tuples.

    Returns
    -------
    Engine

    Raises
    ------
    ValueError
        If the kind or a parameter is unknown, missing or makes no sense.

    Examples
    --------
    >>> engine_from_dict({"kind": "scattering1d", "J": 3, "Q": [8, 1]}).Q
    (8, 1)
    """
    given = dict(parameters)
    kind = given.pop("kind", None)
    if not isinstance(kind, str) or kind not in ENGINES:
        raise ParameterError(f"kind must be one of {', '.join(map(repr, ENGINES))}, not {kind!r}.")
    cls: Any = ENGINES[kind]
    names = [field.name for field in dataclasses.fields(cls)]
    unknown = [name for name in given if name not in names]
    if unknown:
        raise ParameterError(
            f"{cls.__name__} has no parameter {', '.join(map(repr, unknown))}; "
            f"it takes {', '.join(names)}."
        )
    fields = dataclasses.fields(cls)
    lacking = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in given]
    if lacking:
        words = "; ".join(f"{name}, {NEEDED[name]}" for name in lacking)
        raise ParameterError(f"{cls.__name__} needs {words}.")
    values = {name: _tuples(value) for name, value in given.items()}
    engine: Engine = cls(**values)
    return engine


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


__all__ = [
    "ENGINES",
    "CanonicalGrid",
    "Engine",
    "HarmonicScattering3D",
    "Plan",
    "Scattering1D",
    "Scattering2D",
    "TimeFrequencyScattering",
    "engine_from_dict",
]
