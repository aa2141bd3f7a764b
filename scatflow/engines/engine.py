"""What all engines share: values that describe a transform, made concrete by a plan."""

from __future__ import annotations

import dataclasses
import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from scatflow.backends import choose
from scatflow.backends.protocol import Backend
from scatflow.engines.paths import PathTable
from scatflow.engines.plan import PLANS, Boundary, CanonicalGrid, Plan
from scatflow.errors import (
    InputShapeError,
    InputTypeError,
    ParameterError,
    ParameterTypeError,
)

LARGEST_J = 40
"""``2**40`` samples are more than any record has; J is their log2, not their number."""


class Engine(ABC):
    """A scattering transform as an immutable value.

    Subclasses are frozen dataclasses: equal, hashable and picklable by their parameters, with
    nothing else inside. What a transform needs for one shape is a :class:`~scatflow.engines.plan.
    Plan`, cached for the process.
    """

    kind: ClassVar[str]
    ndim: ClassVar[int]
    cost: ClassVar[int] = 1
    """How many times as long as usual a sample takes, roughly: work is cut accordingly."""
    shape: Any

    backend: str | None

    @abstractmethod
    def _build(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], boundary: Boundary, backend: Backend
    ) -> Plan:
        """Make the plan for signals of `shape`."""

    @abstractmethod
    def _arrange(self, plan: Plan, x: Any) -> Any:
        """Apply the plan and give the output its type."""

    @abstractmethod
    def paths(self) -> PathTable:
        """Return the paths and their labels."""

    @abstractmethod
    def check_size(self, shape: tuple[int, ...]) -> None:
        """Say so if signals of a shape are too small for the scales.

        Raises
        ------
        ValueError
            They would see little but padding.
        """

    @abstractmethod
    def _cheapest_grid(self, dtype: np.dtype[Any]) -> CanonicalGrid:
        """Return the canonical grid whose blocks cost least a sample."""

    def canonical_grid(
        self, dtype: DTypeLike = np.float32, tile: int | None = None
    ) -> CanonicalGrid:
        """Return the fixed blocks on which a record of any length is transformed seamlessly.

        They depend on the engine's parameters and the precision alone, and on `tile`.

        Parameters
        ----------
        dtype : dtype
            float32 or float64.
        tile : int, optional
            Samples of a block along each axis, without its halos; by default as many as cost
            least a sample.

        Returns
        -------
        CanonicalGrid
            Of an image or a volume, blocks are square or cubes.

        Raises
        ------
        ValueError
            If the transform is not one that can be cut, or not into such blocks.
        """
        grid = self._cheapest_grid(precision(dtype))
        return grid if tile is None else grid.cut(integer("tile", tile, 1), self.ndim)

    @abstractmethod
    def meta(self) -> dict[str, Any]:
        """Describe the paths, in the order of the output's path axis."""

    def __call__(self, x: Any) -> Any:
        """Transform `x`; see :meth:`scattering`."""
        return self.scattering(x)

    def scattering(self, x: Any) -> Any:
        """Transform signals of the engine's shape, with any number of batch axes in front.

        Parameters
        ----------
        x : array_like, torch.Tensor, cupy.ndarray or array of the array API standard
            Real, ``(..., *shape)``. float32 and float64 keep their precision; integers of up to
            16 bits, bool and float16 are computed in float32, wider integers in float64.

        Returns
        -------
        ndarray, Tensor or cupy.ndarray, list or dict
            As ``out_type`` says; of the library and on the device of `x`. What is derived from
            tensors that require gradients can be differentiated, twice; JAX differentiates and
            compiles what it gave.

        Raises
        ------
        TypeError
            If `x` is not real numbers.
        RuntimeError
            If the last axes of `x` do not have the engine's shape.
        """
        return self._scattered(x)

    def _scattered(self, x: Any, recompute: bool = False) -> Any:
        """Transform signals; with `recompute`, tensors' derivatives compute moduli again."""
        library = choose.library(x)
        if library == choose.STANDARD and self.backend in (None, "plain"):
            return self._standard(x)
        name = choose.chosen(self.backend, self.ndim).name or library
        if name == "cupy" and library == choose.STANDARD and hasattr(x, "__cuda_array_interface__"):
            library = "cupy"
        if self.backend is None and library not in choose.HOST:
            name = library  # settings are for arrays of NumPy's: the others say where they are
        if library == choose.STANDARD or (name in choose.HOST and library not in choose.HOST):
            raise InputTypeError(
                f"The input should be a NumPy array{'' if name in choose.HOST else ' or tensor'}, "
                f"as backend={name!r} asks for, but it is a {type(x).__module__}."
                f"{type(x).__name__}. Leave backend out to follow the input."
            )
        if name in choose.HOST:
            array = real_array(x, self.ndim)
            return self._arrange(self.plan(self._shape_in(array), array.dtype), array)
        if name == "cupy":
            return self._by_cupy(library, x)
        return self._by_torch(library, x, recompute)

    def _by_torch(self, library: str, x: Any, recompute: bool = False) -> Any:
        """Transform with torch what any library holds; the result is of that library."""
        tensors = choose.module("torch")
        if library == "cupy":
            arrays = choose.module("cupy")
            tensor = tensors.from_dlpack(arrays.array(x))
            return _mapped(self._by_torch("torch", tensor), arrays.from_dlpack)
        if library != "torch":
            tensor = tensors.from_host(real_array(x, self.ndim))
            return _mapped(self._tensors(tensors, tensor), tensors.to_host)
        tensor = tensors.real_tensor(x)
        enough_axes(tensor, self.ndim)
        if tensors.in_host_memory(tensor):
            host = tensors.to_host(tensor)
            plan = self.plan(self._shape_in(tensor), host.dtype)
            return _mapped(self._arrange(plan, host), tensors.from_host)
        return self._tensors(tensors, tensor, recompute)

    def _standard(self, x: Any) -> Any:
        """Transform an array of a library that speaks the array API standard, on its device."""
        plain = choose.module("plain")
        array = plain.real(x)
        enough_axes(array, self.ndim)
        shape, dtype = self._shape_in(array), plain.precision(array)
        place = (plain.namespace(array), plain.device_of(array))
        plan = PLANS.get(
            (self, shape, dtype.str, "reflect", "plain", *place),
            lambda: self._build(shape, dtype, "reflect", plain.on(*place)),
        )
        return self._arrange(plan, array)

    def _tensors(self, tensors: Any, x: Any, recompute: bool = False) -> Any:
        """Transform a tensor on its device."""
        dtype = tensors.precision_of(x)
        shape = self._shape_in(x)
        plan = tensors.untraced(self._plan_on, "torch", x.device, shape, dtype, recompute)
        with tensors.own_precision(x):
            return self._arrange(plan, x)

    def _by_cupy(self, library: str, x: Any) -> Any:
        """Transform with CuPy what any library holds; the result is of that library."""
        arrays = choose.module("cupy")
        if library == "torch":
            tensors = choose.module("torch")
            tensor = tensors.real_tensor(x)
            if not tensors.undisturbed(tensor):
                raise InputTypeError(
                    "backend='cupy' neither differentiates nor traces, but the input is a tensor "
                    "that requires gradients or that something transforms or compiles. Leave "
                    "backend out: torch computes it on the same device. Or detach the tensor."
                )
            if tensors.in_host_memory(tensor):
                return _mapped(self._by_cupy("numpy", tensors.to_host(tensor)), tensors.from_host)
            array = arrays.from_dlpack(tensor.detach())
            return _mapped(self._by_cupy("cupy", array), tensors.from_dlpack)
        if library == "cupy":
            array = arrays.array(x)
            enough_axes(array, self.ndim)
            array = arrays.converted(array, _working(array.dtype))
            place = arrays.device_of(array)
        else:
            array = real_array(x, self.ndim)
            place = arrays.device()
        plan = self._plan_on("cupy", place, self._shape_in(array), array.dtype)
        with arrays.on(place).device:  # where arrays that are not contiguous are copied
            return self._arrange(plan, array)

    def _plan_on(
        self,
        library: str,
        place: Any,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        recompute: bool = False,
        boundary: Boundary = "reflect",
    ) -> Plan:
        key = (self, shape, dtype.str, boundary, library, str(place))
        backend = choose.backend(library, place)
        plan = PLANS.get(key, lambda: self._build(shape, dtype, boundary, backend))
        return dataclasses.replace(plan, recompute=True) if recompute else plan

    def _shape_in(self, x: Any) -> tuple[int, ...]:
        """Return the shape of the signals of an array, which must be the engine's."""
        shape = tuple(x.shape[x.ndim - self.ndim :])
        if self.shape is not None and shape != self._input_shape():
            what = "NumPy array" if isinstance(x, np.ndarray) else "Tensor"
            raise InputShapeError(self._wrong_shape(shape, what))
        return shape

    def plan(
        self,
        shape: tuple[int, ...] | None = None,
        dtype: DTypeLike = np.float32,
        boundary: Boundary = "reflect",
        threads: int = 1,
        delegate: str | None = None,
    ) -> Plan:
        """Return the plan for signals of `shape` (default: the engine's own), built once.

        Parameters
        ----------
        shape : tuple of int, optional
            One signal, in samples.
        dtype : dtype
            float32 or float64.
        boundary : {"reflect", "periodic"}
            ``reflect`` pads the signal; ``periodic`` takes it as one period.
        threads : int
            Threads that one call of the plan may keep busy. They share the signals or, where these
            are few, the wavelets of each. The results are the same to the last bit.
        delegate : str, optional
            ``"cupy"``: arrays are computed on the current GPU, and are NumPy's before and after.
            What the plan says of itself, and what it does besides `apply`, stays NumPy's.

        Returns
        -------
        Plan

        Raises
        ------
        ValueError
            If what `delegate` computes with is not there.
        """
        if shape is None:
            if self.shape is None:
                raise ParameterError(
                    f"{type(self).__name__} was made without a shape, so a plan needs one. "
                    "Pass shape=... to plan(), or make the engine with a shape."
                )
            shape = self._input_shape()
        if len(shape) != self.ndim or min(shape) < 1:
            raise ParameterError(
                f"{type(self).__name__} transforms signals of {self.ndim} axes of at least one "
                f"sample, not of shape {tuple(shape)}."
            )
        one_of("boundary", boundary, ("reflect", "periodic"))
        kind = precision(dtype)
        name = choose.chosen(self.backend, self.ndim).name
        backend = choose.backend(name if name in choose.HOST else "numpy")
        key = (self, tuple(shape), kind.str, boundary, backend.name)
        plan = PLANS.get(key, lambda: self._build(tuple(shape), kind, boundary, backend).compiled())
        if delegate is not None:
            place = choose.module(delegate).device()
            other = self._plan_on(delegate, place, tuple(shape), kind, boundary=boundary)
            plan = dataclasses.replace(plan, delegate=other)
        return plan.on(integer("threads", threads, 1))

    def canonical_plan(
        self,
        dtype: DTypeLike = np.float32,
        tile: int | None = None,
        delegate: str | None = None,
    ) -> Plan:
        """Return the plan for one block of :meth:`canonical_grid`, its halos included.

        Parameters
        ----------
        dtype, delegate
            As :meth:`plan` has them.
        tile
            As :meth:`canonical_grid` has it.
        """
        length = self.canonical_grid(dtype, tile).length
        return self.plan((length,) * self.ndim, dtype, boundary="periodic", delegate=delegate)

    def to(self, device: Any) -> Engine:
        """Make the plan for float32 input on a device now, rather than with the first one.

        Engines follow the device of their input; this only saves the first one the time. The plan
        is torch's, or CuPy's if the engine or the settings name that.

        Parameters
        ----------
        device : str, int or torch.device
            As torch takes it.

        Returns
        -------
        Engine
            This one.

        Raises
        ------
        ValueError
            If the device is not there, or not one that the backend computes on.
        """
        library = choose.of_devices(choose.chosen(self.backend, self.ndim).name)
        place = choose.module(library).device(device)
        if self.shape is not None:
            self._plan_on(library, place, self._input_shape(), np.dtype(np.float32))
        return self

    def cuda(self, device: int = 0) -> Engine:
        """Make the plan for input on a GPU now, see :meth:`to`."""
        return self.to(f"cuda:{device}")

    def cpu(self) -> Engine:
        """Make the plan for tensors on the CPU now, see :meth:`to`."""
        return self.to("cpu")

    def output_shape(self, shape: int | tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Return the output's shape for an input of `shape`, batch axes included."""
        if shape is None:
            return self.plan().output_shape
        if isinstance(shape, int):
            shape = (shape,)
        batch, signal = shape[: len(shape) - self.ndim], shape[len(shape) - self.ndim :]
        return (*batch, *self.plan(tuple(signal)).output_shape)

    def output_size(self, detail: bool = False) -> int | tuple[int, ...]:
        """Return the length of the output's path axis, or with `detail` that of each order."""
        paths = self.paths()
        return paths.per_order() if detail else len(paths)

    def littlewood_paley(self, order: int = 1) -> NDArray[np.float64]:
        r"""Return how a bank covers the frequencies.

        .. math:: A(\omega) = |\hat\phi(\omega)|^2
            + \tfrac12 \sum_\lambda |\hat\psi_\lambda(\omega)|^2
            + |\hat\psi_\lambda(-\omega)|^2

        Where it is at most one the transform contracts, and where it is near one nothing is lost
        (Mallat 2012). Solid harmonics have no low-pass, and a sum over their orders `m`.

        Parameters
        ----------
        order : int
            1 or, of signals, 2: whose bank.

        Returns
        -------
        ndarray
            On the grid of ``numpy.fft.fftfreq``, as long as the engine's padded signals, or long
            enough for the widest filter.
        """
        found: NDArray[np.float64] = inspection().littlewood_paley(self, order)
        return found

    def frame_bounds(self, order: int = 1) -> tuple[float, float]:
        """Return the least and the largest value of :meth:`littlewood_paley`."""
        covered = self.littlewood_paley(order)
        return float(covered.min()), float(covered.max())

    def redundancy(self, shape: tuple[int, ...] | None = None) -> float:
        """Return how many coefficients there are for each sample of signals of a shape."""
        found: float = inspection().redundancy(self, shape)
        return found

    def reach(self) -> int | None:
        """Return how many samples to each side of its centre a coefficient sees; None: all."""
        found: int | None = inspection().reach(self)
        return found

    def describe(self, rate: float | None = None) -> str:
        """Describe the engine in words and a table of its first wavelets.

        Parameters
        ----------
        rate : float, optional
            Samples per second: frequencies are told in Hz then, and lengths in seconds.
        """
        found: str = inspection().describe(self, rate)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters as JSON-able values, with the engine's `kind`."""
        return {"kind": self.kind, **{k: _plain(v) for k, v in self._parameters().items()}}

    def _parameters(self) -> dict[str, Any]:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # subclasses are dataclasses
        return {field.name: getattr(self, field.name) for field in fields}

    def _set(self, **values: Any) -> None:
        """Set normalised parameters while the frozen value is being made."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _input_shape(self) -> tuple[int, ...]:
        """Return the shape that one input signal must have."""
        return tuple(self.shape)

    def _wrong_shape(self, found: tuple[int, ...], what: str) -> str:  # noqa: ARG002
        """Say that an input, "NumPy array" or "Tensor", has another shape than the engine's."""
        return (
            f"The last axes of the input have shape {found}, but {type(self).__name__} was made "
            f"for {self._input_shape()}. Pass shape=None to take the shape from each input."
        )


def inspection() -> Any:
    """Return the module that looks at filters, which knows all engines."""
    return importlib.import_module("scatflow.engines.inspection")


def real_array(x: Any, ndim: int) -> NDArray[Any]:
    """Return `x` as an array of float32 or float64 with at least `ndim` axes."""
    if x is None:
        raise InputTypeError("The input should be an array of real numbers, not None.")
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise InputTypeError(
            "The input should be real numbers without holes, but it is a masked array: its masked "
            "samples would be transformed as if they were data. Fill it first (x.filled(...))."
        )
    array = np.asarray(x)
    kind = _working(array.dtype)
    enough_axes(array, ndim)
    return array.astype(kind, copy=False)


def _working(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the precision in which an input is transformed, or say that it is not real."""
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise InputTypeError(
            f"The input should be real, in at most 64 bits, but it has dtype {dtype}. "
            "Take its real part, its modulus or convert it first."
        )
    return working_dtype(dtype)


def enough_axes(x: Any, ndim: int) -> None:
    """Say so if an array has too few axes for a signal."""
    if x.ndim < ndim:
        words = {
            1: "at least one axis",
            2: "at least two dimensions",
            3: "at least three dimensions",
        }
        raise InputShapeError(
            f"The input should have {words[ndim]}, but has shape {tuple(x.shape)}."
        )


def working_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the precision in which values of `dtype` are transformed."""
    small = dtype.kind == "b" or dtype.itemsize <= 2
    single = small or (dtype.kind == "f" and dtype.itemsize == 4)
    return np.dtype(np.float32 if single else np.float64)


def precision(dtype: DTypeLike) -> np.dtype[Any]:
    """Return float32 or float64, in native byte order, or say that nothing else is computed in."""
    kind = np.dtype(dtype).newbyteorder("=")
    if kind not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ParameterError(f"dtype must be float32 or float64, not {kind}.")
    return kind


def scalar(value: Any) -> Any:
    """Return what an array without axes holds, as files give parameters; the rest as it is."""
    return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value


def flag(name: str, value: Any) -> bool:
    """Return a parameter as bool, or say what is wrong with it."""
    value = scalar(value)
    if not isinstance(value, bool | np.bool_):
        raise ParameterTypeError(f"{name} must be True or False, not {value!r}.")
    return bool(value)


LARGEST = int(np.finfo(np.float64).max)
"""Integers above have no floating-point number."""


def integer(name: str, value: Any, least: int, most: int = 2**31) -> int:
    """Return a parameter as int, or say what is wrong with it."""
    value = scalar(value)
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise ParameterError(f"{name} must be an integer, not {value!r}.")
    if value < least:
        raise ParameterError(f"{name} must be at least {least}, not {value}.")
    if value > most:
        found = f"{value:.6g}" if value < LARGEST else "an integer beyond floating point"
        raise ParameterError(f"{name} must be at most {most}, not {found}.")
    return int(value)


def number(name: str, value: Any) -> float:
    """Return a parameter as a finite float, or say what is wrong with it."""
    value = scalar(value)
    if isinstance(value, bool | np.bool_) or not isinstance(
        value, int | float | np.integer | np.floating
    ):
        raise ParameterError(f"{name} must be a number, not {value!r}.")
    try:
        real = float(value)
    except OverflowError:
        raise ParameterError(f"{name} must be finite, not {str(value)[:9]}... .") from None
    if not math.isfinite(real):
        raise ParameterError(f"{name} must be finite, not {value!r}.")
    return real


def shape_of(value: Any, ndim: int) -> tuple[int, ...] | None:
    """Return a `shape` parameter as a tuple of `ndim` positive integers, or None."""
    if value is None:
        return None
    value = value.tolist() if isinstance(value, np.ndarray) else scalar(value)
    if ndim == 1 and isinstance(value, int | np.integer) and not isinstance(value, bool):
        value = (value,)
    if not isinstance(value, tuple | list) or not all(
        isinstance(n, int | np.integer) and not isinstance(n, bool) for n in value
    ):
        words = "an integer or a 1-tuple" if ndim == 1 else f"a tuple of {ndim} integers"
        raise ParameterError(f"shape must be {words}, not {value!r}.")
    if len(value) != ndim:
        words = "element" if ndim == 1 else "elements"
        count = {1: "one", 2: "two", 3: "three"}[ndim]
        raise ParameterError(f"shape must have exactly {count} {words}, not {value!r}.")
    if min(value) < 1:
        raise ParameterError(f"shape must be positive, not {value!r}.")
    return tuple(int(n) for n in value)


def one_of(name: str, value: Any, accepted: tuple[Any, ...]) -> Any:
    """Return a parameter if it is among those accepted."""
    if value not in accepted:
        listed = ", ".join(repr(a) for a in accepted)
        raise ParameterError(f"{name} must be one of {listed}, not {value!r}.")
    return value


def _mapped(result: Any, convert: Callable[[Any], Any]) -> Any:
    """Return an engine's output with its arrays converted."""
    if isinstance(result, dict):
        return {key: convert(value) for key, value in result.items()}
    if isinstance(result, list):
        return [{**path, "coef": convert(path["coef"])} for path in result]
    return convert(result)


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple) else value
