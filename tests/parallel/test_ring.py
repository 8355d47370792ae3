"""Attention in a ring gives the numbers and gradients of attention on one device, also tile by tile."""

import pytest
from helpers import run_python

CODE = """
import json
import jax.numpy as jnp
import numpy as np
from bigjax.models import tiles
from bigjax.models.attention import KeyValues, attend
from bigjax.parallel.mesh import make_mesh

def random(key, *shape):
    return jax.random.normal(jax.random.key(key), shape)

def gradients(x, source, mask, causal):
    def squares(x, source):
        y = attend(x, source, mask, causal)
        return (y**2).sum(), y
    return jax.grad(squares, (0, 1), has_aux=True)(x, source)

T = 136  # of which each of four devices has two tiles and a rest
x, source = random(0, 2, T, 4, 8), KeyValues(random(1, 2, 2, T, 8), random(2, 2, 2, T, 8))  # 4 heads of 2
across = KeyValues(random(3, 2, 4, 64, 8), random(4, 2, 4, 64, 8))
document = jnp.arange(T) < 70
cases = {
    "causal": (source, None, True),
    "packed": (source, (document[:, None] == document)[None, None], True),
    "padded": (source, (jnp.arange(T) < jnp.array([50, 128])[:, None])[:, None, None], False),
    "of each head": (source, jax.random.bernoulli(jax.random.key(5), 0.5, (2, 4, T, T)).at[..., 0].set(True), False),
    "cross": (across, None, False),
}
tiles.TILE = 16
run = jax.jit(gradients, static_argnums=3)
alone = {name: run(x, *case) for name, case in cases.items()}
with jax.set_mesh(make_mesh(data=1, sequence=4, tensor=2)):
    around = jax.jit(lambda *given: gradients(*given), static_argnums=3)
    for name, case in cases.items():
        program = around.lower(x, *case).compile()
        assert "collective-permute" in program.as_text(), name
        found = program(x, *case[:2])
        for a, b in zip(jax.tree.leaves(alone[name]), jax.tree.leaves(found), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-5, atol=2e-5, err_msg=name)
        print(name)
"""


@pytest.mark.slow
def test_a_ring_gives_what_one_device_gives():
    assert len(run_python(CODE, devices=8).splitlines()) == 5
