"""The mixture of experts against Mixtral's."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import apply, filled, made

from bigjax.models.moe import MixtureOfExperts, balance

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import MixtralConfig
from transformers.models.mixtral import modeling_mixtral as mixtral


@pytest.mark.parametrize(
    ("d_model", "d_ff", "num_experts", "experts_per_token"), [(12, 20, 8, 2), (10, 7, 5, 3), (8, 16, 3, 1)]
)
def test_output_and_loss_are_those_of_mixtral(d_model, d_ff, num_experts, experts_per_token):
    config = MixtralConfig(
        hidden_size=d_model,
        intermediate_size=d_ff,
        num_local_experts=num_experts,
        num_experts_per_tok=experts_per_token,
        experts_implementation="eager",
    )
    theirs = mixtral.MixtralSparseMoeBlock(config)
    torch.manual_seed(0)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(3, 11, d_model)
    with torch.no_grad():
        expected = theirs(x).numpy()
        logits = theirs.gate(x)[0]
        loss = mixtral.load_balancing_loss_func((logits,), num_experts, experts_per_token)

    experts = {name: tensor.detach().numpy().swapaxes(1, 2) for name, tensor in theirs.experts.named_parameters()}
    gate, up = np.split(experts["gate_up_proj"], 2, -1)
    arrays = {"router/kernel": theirs.gate.weight.detach().numpy().T}
    arrays |= {"gate": gate, "up": up, "down": experts["down_proj"]}
    ours = made(
        lambda rngs: MixtureOfExperts(
            d_model,
            d_ff,
            num_experts,
            experts_per_token,
            kernel_init=nnx.initializers.normal(),
            out_init=nnx.initializers.normal(),
            dtype=jnp.float32,
            rngs=rngs,
        )
    )
    actual, routing = apply(filled(ours, arrays), x.numpy())
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(balance(routing, jnp.ones((3, 11)))[0], loss, rtol=1e-5)
