"""Which backend serves."""

import inspect
import sys

import numpy as np
import platformdirs
import pytest
import torch

import scatflow
from scatflow.backends import choose
from scatflow.backends.protocol import Backend, Joining
from scatflow.cli.texts import doctor_lines
from scatflow.errors import BackendError


def public(protocol):
    return [name for name, _ in inspect.getmembers(protocol, inspect.isfunction) if name[0] != "_"]


VERBS = dict.fromkeys(public(Backend), Backend)
ELSEWHERE = {**VERBS, **dict.fromkeys(public(Joining), Joining)}


@pytest.mark.parametrize("name", choose.BACKENDS)
def test_every_backend_answers_to_its_name_and_has_every_verb(name, machine):
    backend = choose.backend(name)
    assert backend.name == name
    assert {"spectrum", "wavelet_modulus", "average", "pad", "prepare"} <= set(VERBS)
    assert {"over", "join", "split"} <= set(ELSEWHERE)
    for verb, protocol in (VERBS if name in choose.HOST else ELSEWHERE).items():
        expected = list(inspect.signature(getattr(protocol, verb)).parameters)[1:]
        assert list(inspect.signature(getattr(backend, verb)).parameters) == expected


def test_no_name_follows_the_input():
    assert choose.check(None) is None
    assert choose.library(torch.nn.Parameter(torch.ones(2))) == "torch"
    for x in (np.ones(2), [1.0], 3, None, np.ma.ones(2)):
        assert choose.library(x) == "numpy"

    class OnADevice:
        __cuda_array_interface__ = {}  # noqa: RUF012 - that it is there is what counts

    assert choose.library(OnADevice()) == "cupy"


def test_kymatios_skcuda_is_another_name_of_cupy():
    assert choose.check("skcuda") == "cupy"
    assert scatflow.Scattering2D(2, backend="skcuda") == scatflow.Scattering2D(2, backend="cupy")


@pytest.mark.parametrize("name", ["cupy", "skcuda"])
def test_a_backend_that_is_not_installed_is_said_with_the_line_that_installs_it(monkeypatch, name):
    monkeypatch.setattr(choose, "installed", lambda name: name != "cupy")
    engine = scatflow.Scattering1D(3, 64, backend=name)
    for call in (lambda: engine(np.ones(64)), engine.cuda):
        with pytest.raises(BackendError, match=r"needs cupy\. Installed: numpy, plain, .*cuda12"):
            call()
    monkeypatch.setenv("SCATFLOW_BACKEND", name)
    with pytest.raises(BackendError, match="needs cupy"):
        scatflow.Scattering1D(3, 64)(np.ones(64))


def test_a_backend_that_does_not_import_is_said(monkeypatch, machine):
    def broken(name):
        raise ImportError("libcublas.so.12: cannot open shared object file")

    monkeypatch.setattr(choose.importlib, "import_module", broken)
    with pytest.raises(BackendError, match=r"does not import \(libcublas.*scatflow\[cuda12\]"):
        scatflow.Scattering1D(3, 64, backend="cupy")(np.ones(64))


def test_who_prepares_engines_on_devices(monkeypatch):
    assert choose.of_devices("cupy") == "cupy"
    for there, name in (({"torch", "cupy"}, "torch"), ({"cupy"}, "cupy"), (set(), "torch")):
        monkeypatch.setattr(choose, "installed", there.__contains__)
        assert {choose.of_devices(chosen) for chosen in (None, "numpy", "plain")} == {name}


@pytest.mark.parametrize("name", ["jax", "NumPy", "", 3, ("numpy",), ["numpy"]])
def test_an_unknown_backend_is_refused_by_name(name):
    with pytest.raises(ValueError, match="backend must be None or one of 'numpy'"):
        choose.check(name)


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """A configuration folder; writes its file."""
    monkeypatch.setattr(platformdirs, "user_config_path", lambda name: tmp_path / name)
    for name in ("", "_1D", "_2D", "_3D"):
        monkeypatch.delenv(f"SCATFLOW_BACKEND{name}", raising=False)
    choose.user_settings.cache_clear()

    def write(text):
        path = tmp_path / "scatflow" / "config.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        choose.user_settings.cache_clear()
        return path

    yield write
    choose.user_settings.cache_clear()


def test_who_is_asked_first(settings, monkeypatch):
    assert choose.chosen(None, 1) == (None, "by the input")
    path = settings('backend = "plain"')
    assert choose.chosen(None, 1) == ("plain", f"by {path}")
    settings('backend = "plain"\nbackend_2d = "torch"')
    assert [choose.chosen(None, n).name for n in (1, 2, 3)] == ["plain", "torch", "plain"]
    monkeypatch.setenv("SCATFLOW_BACKEND", "numpy")
    assert choose.chosen(None, 2) == ("numpy", "by SCATFLOW_BACKEND")
    monkeypatch.setenv("SCATFLOW_BACKEND_2D", "torch")
    assert choose.chosen(None, 2) == ("torch", "by SCATFLOW_BACKEND_2D")
    assert choose.chosen(None, 3).name == "numpy"
    assert choose.chosen("plain", 2) == ("plain", "by the engine")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('backend = "jax"', "backend in .*config.toml must be None or one of"),
        ('backends = "numpy"', "has backends, which nothing reads"),
        ("backend =", "is not TOML"),
        ("backend = 3", "must be None or one of"),
    ],
)
def test_a_wrong_file_is_said(settings, text, message):
    settings(text)
    with pytest.raises(ValueError, match=message):
        scatflow.Scattering1D(3, 64)(np.zeros(64))


def test_a_wrong_variable_is_said(settings, monkeypatch):
    monkeypatch.setenv("SCATFLOW_BACKEND_1D", "tensorflow")
    with pytest.raises(ValueError, match=r"SCATFLOW_BACKEND_1D must be .*Installed: numpy"):
        scatflow.Scattering1D(3, 64)(np.zeros(64))


@pytest.mark.parametrize("name", ["numpy", "plain", "torch"])
def test_the_chosen_backend_computes(settings, monkeypatch, name, rng):
    x = rng.standard_normal((2, 64)).astype(np.float32)
    expected = scatflow.Scattering1D(3, 64, backend=name)(x)
    monkeypatch.setenv("SCATFLOW_BACKEND", name)
    found = scatflow.Scattering1D(3, 64)(x)
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, expected)
    of_tensors = scatflow.Scattering1D(3, 64)(torch.from_numpy(x))
    assert isinstance(of_tensors, torch.Tensor)  # they are torch's in any case


def test_engines_are_prepared_on_devices():
    S = scatflow.Scattering1D(3, 64)
    assert S.to("cpu") is S.cpu() is S
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="sees no GPU"):
            S.cuda()


def test_doctor_says_who_serves_and_why(settings, monkeypatch):
    monkeypatch.setattr(choose, "installed", lambda name: name != "cupy")
    monkeypatch.setenv("SCATFLOW_BACKEND_3D", "plain")
    lines = doctor_lines()
    assert "  1D: numpy, of tensors torch, by the input" in lines
    assert "  3D: plain, by SCATFLOW_BACKEND_3D" in lines
    assert "backends   numpy, plain, torch; not installed: cupy" in lines


def test_doctor_says_that_arrays_on_gpus_are_cupys(settings, machine):
    lines = doctor_lines()
    assert "  1D: numpy, of tensors torch, of arrays on GPUs cupy, by the input" in lines


def test_doctor_says_why_an_installed_backend_does_not_work(settings, monkeypatch):
    monkeypatch.setattr(choose, "installed", lambda _: True)
    monkeypatch.setitem(sys.modules, "cupy", None)  # its import fails
    monkeypatch.delitem(sys.modules, "scatflow.backends.cupy", raising=False)
    assert "cupy, which is installed but does not import (" in "\n".join(doctor_lines())
