"""Which backend serves."""

import inspect

import numpy as np
import pytest
import torch

from scatflow.backends import choose
from scatflow.backends.protocol import Backend

VERBS = [name for name, _ in inspect.getmembers(Backend, inspect.isfunction) if name[0] != "_"]


@pytest.mark.parametrize("name", choose.BACKENDS)
def test_every_backend_answers_to_its_name_and_has_every_verb(name):
    backend = choose.backend(name)
    assert backend.name == name
    assert {"spectrum", "wavelet_modulus", "average", "pad", "prepare"} <= set(VERBS)
    for verb in VERBS:
        expected = list(inspect.signature(getattr(Backend, verb)).parameters)[1:]
        assert list(inspect.signature(getattr(backend, verb)).parameters) == expected


def test_no_name_follows_the_input():
    assert choose.check(None) is None
    assert choose.library(torch.nn.Parameter(torch.ones(2))) == "torch"
    for x in (np.ones(2), [1.0], 3, None, np.ma.ones(2)):
        assert choose.library(x) == "numpy"


@pytest.mark.parametrize("name", ["jax", "NumPy", "", 3, ("numpy",), ["numpy"]])
def test_an_unknown_backend_is_refused_by_name(name):
    with pytest.raises(ValueError, match="backend must be None or one of 'numpy'"):
        choose.check(name)
