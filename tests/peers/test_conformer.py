"""A Conformer block against that of Wav2Vec2Conformer, whose BatchNorm is exchanged for the LayerNorm that ours has."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import filled, made

from bigjax.models.conformer import Block
from bigjax.models.rotary import rotary_frequencies
from bigjax.models.sinusoids import sinusoids

pytest.importorskip("torch")
pytest.importorskip("transformers")

from fixtures.make_encoder_decoders import conformer, conformer_output, conformer_parameters, frames


@pytest.mark.parametrize(
    ("sizes", "length"),
    [
        ({"d_model": 20, "num_heads": 5, "d_ff": 17, "kernel_size": 3}, 13),
        ({"d_model": 48, "num_heads": 1, "d_ff": 100, "kernel_size": 31}, 40),
    ],
)
def test_block_is_that_of_wav2vec2_conformer(sizes, length):
    theirs, embedding = conformer(**sizes)
    block = made(lambda rngs: Block(*sizes.values(), 0.1, dtype=jnp.float32, rngs=rngs))
    x = frames(sizes["d_model"], length=length)
    positions = sinusoids(jnp.arange(length - 1, -length, -1), rotary_frequencies(sizes["d_model"], 10000.0))
    actual = filled(block, conformer_parameters(theirs))(x, positions, jnp.ones(x.shape[:2], bool))
    np.testing.assert_allclose(actual, conformer_output(theirs, embedding, x), rtol=1e-5, atol=1e-5)
