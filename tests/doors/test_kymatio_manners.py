"""What programs written for Kymatio set, read and save."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch

import scatflow
import scatflow.kymatio
import scatflow.numpy
import scatflow.sklearn
import scatflow.torch
from scatflow.backends import choose
from scatflow.errors import InputTypeError

DOORS = {"numpy": scatflow.numpy, "torch": scatflow.torch}
doors = pytest.mark.parametrize("library", DOORS)
CASES = {
    "Scattering1D": ((5, 1024, (4, 2)), (2, 1024)),
    "Scattering2D": ((3, (30, 40), 4), (2, 30, 40)),
    "HarmonicScattering3D": ((1, (8, 6, 10), 2), (2, 8, 6, 10)),
    "TimeFrequencyScattering": ((5, 3, 4, 512), (2, 512)),
}
cases = pytest.mark.parametrize("name", CASES)


@pytest.fixture(scope="module")
def kymatio():
    """Kymatio's frontends, by library."""
    import importlib
    import warnings

    import scipy.special

    if not hasattr(scipy.special, "sph_harm"):
        scipy.special.sph_harm = lambda m, n, az, pol: scipy.special.sph_harm_y(n, m, pol, az)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: importlib.import_module(f"kymatio.{name}") for name in DOORS}


def door(library, name, **more):
    return getattr(DOORS[library], name)(*CASES[name][0], **more)


def host(x):
    return x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


@doors
@cases
def test_the_engine_behind_computes(library, name, rng):
    x = rng.standard_normal(CASES[name][1]).astype(np.float32)
    engine = getattr(scatflow, name)(*CASES[name][0])
    given = x if library == "numpy" else torch.from_numpy(x)
    S = door(library, name)
    found = S(given)
    assert type(found) is type(given)
    np.testing.assert_array_equal(host(found), engine(x))
    np.testing.assert_array_equal(host(S.scattering(given)), engine(x))
    assert S.output_size() == engine.output_size()
    assert S.output_size(detail=True) == engine.output_size(detail=True)
    assert list(S.meta()) == list(engine.meta())


@doors
def test_signals_are_read_as_kymatios(library, kymatio):
    theirs = kymatio[library].Scattering1D(*CASES["Scattering1D"][0])
    ours = door(library, "Scattering1D")
    names = "J shape Q T max_order out_type r_psi sigma0 alpha log2_T _N_padded pad_left pad_right"
    for name in [*names.split(), "ind_start", "ind_end", "frontend_name"]:
        assert getattr(ours, name) == getattr(theirs, name), name
    for bank in ("psi1_f", "psi2_f"):
        for a, b in zip(getattr(ours, bank), getattr(theirs, bank), strict=True):
            assert len(a["levels"]) == len(b["levels"])
            assert a["j"] == b["j"]
            assert (a["xi"], a["sigma"]) == pytest.approx((b["xi"], b["sigma"]), rel=1e-12)
            np.testing.assert_allclose(a["levels"][0], host(b["levels"][0]).ravel(), atol=1e-7)
    low = host(theirs.phi_f["levels"][0]).ravel()
    np.testing.assert_allclose(ours.phi_f["levels"][0], low, atol=1e-7)
    for k, level in enumerate(ours.phi_f["levels"]):
        assert level.size == ours._N_padded // 2**k
    assert (ours.average, ours.stride, ours.log2_stride) == ("local", 32, 5)


@doors
def test_images_are_read_as_kymatios(library, kymatio):
    theirs = kymatio[library].Scattering2D(*CASES["Scattering2D"][0])
    ours = door(library, "Scattering2D")
    names = "J L shape max_order pre_pad out_type _M_padded _N_padded"
    for name in names.split():
        assert getattr(ours, name) == getattr(theirs, name), name
    assert (ours.M, ours.N) == (30, 40)
    for a, b in zip(ours.psi, theirs.psi, strict=True):
        assert (a["j"], a["theta"]) == (b["j"], b["theta"])
        for level, other in zip(a["levels"], b["levels"], strict=True):
            np.testing.assert_allclose(level, host(other).reshape(level.shape), atol=1e-6)
    for level, other in zip(ours.phi["levels"], theirs.phi["levels"], strict=True):
        np.testing.assert_allclose(level, host(other).reshape(level.shape), atol=1e-6)


def test_volumes_are_read_as_kymatios(kymatio):
    theirs = kymatio["numpy"].HarmonicScattering3D(*CASES["HarmonicScattering3D"][0])
    ours = door("numpy", "HarmonicScattering3D")
    for name in ["J", "L", "M", "N", "O", "sigma_0", "max_order", "method", "integral_powers"]:
        assert getattr(ours, name) == getattr(theirs, name), name
    for degree, other in zip(ours.filters, theirs.filters, strict=True):
        np.testing.assert_allclose(degree, other, atol=1e-6)
    np.testing.assert_allclose(ours.gaussian_filters, theirs.gaussian_filters, atol=1e-6)


@doors
def test_what_programs_read_of_time_frequency_scattering(library):
    S = door(library, "TimeFrequencyScattering")
    assert (S.J, S.J_fr, S.Q, S.Q_fr, S.shape, S.T, S.F) == (5, 3, (4, 1), (1,), (512,), 32, 8)
    assert (S.average, S.average_fr, S.log2_F, S.format, S.max_order) == (
        "local", "local", 3, "time", 2,
    )  # fmt: skip
    low, bank = S.filters_fr
    assert low["N"] == S._N_padded_fr == bank[0]["levels"][0].size == 88
    assert len(S.psi1_f) == len(scatflow.Scattering1D(5, 512, 4).scales()[0])
    xi = [psi["xi"] for psi in bank]
    assert xi[0] == 0
    assert all(x > 0 for x in xi[1:5])
    assert [-x for x in xi[1:5]] == xi[5:]
    S.out_type, S.format = "dict", "joint"
    assert S.meta()["key"][-1] == (len(S.psi2_f) - 1, 8)
    with pytest.raises(AttributeError, match="max_order cannot be set"):
        S.max_order = 1


@doors
def test_what_programs_assign(library, rng):
    x = rng.standard_normal(1024)
    given = x if library == "numpy" else torch.from_numpy(x)
    S = door(library, "Scattering1D")
    S.max_order = 1
    S.out_type = "dict"
    true = scatflow.Scattering1D(*CASES["Scattering1D"][0], max_order=1, out_type="dict")(x)
    found = S(given)
    assert list(found) == list(true)
    np.testing.assert_array_equal(host(found[3,]), true[3,])
    V = door(library, "HarmonicScattering3D")
    V.integral_powers = (1.0,)
    assert V.engine.output_shape() == (3, 3, 1)
    V.method = "standard"
    assert V.engine.output_shape() == (3, 3, 4, 3, 5)
    with pytest.raises(AttributeError, match="J cannot be set"):
        S.J = 3
    with pytest.raises(ValueError, match="out_type must be one of"):
        S.out_type = "table"
    assert S.out_type == "dict"


@doors
@cases
def test_copies_and_pickles(library, name):
    S = door(library, name)
    for other in (copy.deepcopy(S), pickle.loads(pickle.dumps(S))):
        assert other.engine == S.engine
        assert repr(other) == repr(S)


@cases
@pytest.mark.parametrize("library", ["numpy", "torch", "sklearn"])
def test_a_parameter_names_the_library(library, name):
    made = getattr(scatflow.kymatio, name)(*CASES[name][0], frontend=library)
    assert type(made) is getattr(getattr(scatflow, library), name)
    assert repr(made) == repr(getattr(getattr(scatflow, library), name)(*CASES[name][0]))


@cases
def test_the_library_is_numpy_where_none_is_named(name):
    assert type(getattr(scatflow.kymatio, name)(*CASES[name][0])) is getattr(scatflow.numpy, name)


def test_a_library_without_a_door_is_refused():
    with pytest.raises(RuntimeError, match="frontend='jax' is not valid"):
        scatflow.kymatio.Scattering1D(3, 64, frontend="jax")


@cases
def test_parameters_may_come_from_files(name):
    """Arrays without axes, as `numpy.load` gives them."""
    given = CASES[name][0]
    boxed = [np.array(v) if isinstance(v, int) else v for v in given]
    if name == "Scattering1D":
        boxed[2] = tuple(np.array(q) for q in given[2])
    true = getattr(scatflow, name)(*given)
    assert getattr(scatflow, name)(*boxed) == true
    more = {
        "Scattering1D": {"T": 8.0, "max_order": 1, "stride": 4},
        "TimeFrequencyScattering": {"Q_fr": 1, "stride_fr": 2, "F": 4.0},
        "Scattering2D": {"pre_pad": True},
        "HarmonicScattering3D": {"sigma_0": 2.0, "rotation_covariant": False},
    }[name]
    boxed_more = {key: np.array(value) for key, value in more.items()}
    found = getattr(scatflow, name)(*given, **boxed_more)
    assert found == getattr(scatflow, name)(*given, **more)
    assert hash(found) == hash(getattr(scatflow, name)(*given, **more))


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("Scattering2D", {}, "Tensor must be of spatial size"),
        ("Scattering2D", {"pre_pad": True}, "Padded tensor must be of spatial size"),
        ("HarmonicScattering3D", {}, "Tensor must be of spatial size"),
    ],
)
@pytest.mark.parametrize("traced", [False, True])
def test_tensors_of_another_size_are_called_tensors(name, more, message, traced):
    with pytest.raises(RuntimeError, match=message):
        door("torch", name, **more)(torch.zeros(2, 7, 7, 7, requires_grad=traced))


@doors
def test_an_unknown_backend_cannot_be_imported(library):
    with pytest.raises(ImportError, match="not supported and can not be called"):
        door(library, "Scattering2D", backend="doesnotexist")


def test_tensors_and_arrays_have_a_door_each():
    with pytest.raises(InputTypeError, match=r"should be a torch.Tensor"):
        door("torch", "Scattering1D")(np.zeros(1024))
    with pytest.raises(InputTypeError, match="should be a NumPy array"):
        door("numpy", "Scattering1D")(torch.zeros(1024))


@pytest.mark.parametrize("name", [name for name in CASES if name != "TimeFrequencyScattering"])
def test_what_kymatio_saved_is_skipped(name, kymatio):
    theirs = torch.nn.Sequential(getattr(kymatio["torch"], name)(*CASES[name][0]))
    ours = torch.nn.Sequential(door("torch", name))
    assert theirs.state_dict()
    ours.load_state_dict(theirs.state_dict())
    ours.load_state_dict(ours.state_dict())
    with pytest.raises(RuntimeError, match="Unexpected key"):
        ours.load_state_dict({"0.weight": torch.zeros(1)})


def test_modules_are_saved_moved_and_replicated(rng):
    S = door("torch", "Scattering2D")
    file = io.BytesIO()
    torch.save(S, file)
    file.seek(0)
    x = torch.from_numpy(rng.standard_normal((2, 30, 40))).requires_grad_()
    loaded = torch.load(file, weights_only=False)
    torch.testing.assert_close(loaded(x), S(x))
    assert S.double()(x).dtype == torch.float64
    assert S.half()(x.float()).dtype == torch.float32
    assert S.cpu() is S
    torch.testing.assert_close(copy.copy(S)(x), S(x))
    before = dict(vars(S))
    S(x)
    assert vars(S) == before  # nothing is written in forward


def test_a_door_refuses_backends_that_cannot_serve_it():
    with pytest.raises(ImportError, match=r"can not be called from scatflow\.torch"):
        scatflow.torch.Scattering1D(3, 64, backend="numpy")


def test_a_door_asks_at_once_for_what_its_backend_needs(monkeypatch):
    monkeypatch.setattr(choose, "installed", lambda name: name != "cupy")
    with pytest.raises(ImportError, match="needs cupy"):
        scatflow.numpy.Scattering1D(3, 64, backend="cupy")


def test_without_averaging_t_is_what_it_would_be():
    assert scatflow.numpy.Scattering1D(3, 64, T=0, out_type="list").T == 8


def test_compilers_go_around_modules():
    S = scatflow.torch.Scattering1D(3, 64)
    x = torch.randn(2, 64)
    graphs = torch._dynamo.explain(lambda x: 2 * S(x))(x).graph_count
    assert graphs <= 2  # what is before it and after it


def test_what_cannot_be_traced_says_so():
    with (
        pytest.warns(DeprecationWarning, match=r"torch\.jit"),
        pytest.raises(InputTypeError, match=r"torch\.export or torch\.compile"),
    ):
        torch.jit.trace(scatflow.torch.Scattering1D(3, 64), torch.randn(2, 64))
