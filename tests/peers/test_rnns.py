"""Recurrent stacks against PyTorch's, live: packed sequences of different lengths, states, all gradients."""

import pytest

pytest.importorskip("torch")

from fixtures.make_rnns import by_torch
from torch_rnns import CONFIGURATIONS, compare


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_outputs_states_and_gradients_are_pytorchs(name):
    outputs, gradients = compare(CONFIGURATIONS[name], by_torch(CONFIGURATIONS[name], seed=1))
    print(f"{name}: outputs and states within {outputs:.1e}, gradients within {gradients:.1e} of their largest")
