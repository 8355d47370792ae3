"""The Transformer against MarianMT, which with ReLU is the paper's: post-norm, sinusoids, one embedding."""

import numpy as np
import pytest
from helpers import apply, filled, made

from bigjax.inference.beam import beam_search
from bigjax.inference.generate import generate
from bigjax.inference.sampling import GREEDY
from bigjax.models.encoder_decoder import EncoderDecoder, Source

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from fixtures.make_encoder_decoders import marian, marian_logits, marian_parameters, tokens

ODD = [
    {"vocab_size": 37, "d_model": 20, "num_layers": 3, "num_heads": 5, "d_ff": 17},
    {"vocab_size": 53, "d_model": 14, "num_layers": 1, "num_heads": 1, "d_ff": 64},
    {"vocab_size": 300, "d_model": 96, "num_layers": 2, "num_heads": 12, "d_ff": 100},
]


def both(sizes, seed=0):
    theirs = marian(**sizes, seed=seed)
    return theirs, filled(made(lambda rngs: EncoderDecoder(**sizes, rngs=rngs)), marian_parameters(theirs))


@pytest.mark.parametrize("sizes", ODD)
def test_logits_are_those_of_marian(sizes):
    theirs, ours = both(sizes)
    source, mask, target = tokens(sizes["vocab_size"])
    expected = marian_logits(theirs, source, mask, target)
    actual = apply(ours, source, target, mask)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-4)
    assert expected.std() > 0.5


@pytest.mark.parametrize(("sizes", "seed"), [(ODD[0], 2), (ODD[1], 1)])
def test_greedy_tokens_and_beams_are_those_of_marian(sizes, seed):
    theirs, ours = both(sizes, seed)
    source, mask, _ = tokens(sizes["vocab_size"])
    inputs = {"input_ids": torch.from_numpy(source).long(), "attention_mask": torch.from_numpy(mask).long()}
    options = {"max_new_tokens": 12, "early_stopping": False, "do_sample": False}
    prompts, arguments = [[0], [0]], {"source": Source(source, mask), "stop": (1,)}

    def expected(num_beams):
        rows = theirs.generate(**inputs, num_beams=num_beams, **options)[:, 1:].tolist()
        return [row[: row.index(1) + 1] if 1 in row else row for row in rows]

    assert generate(ours, prompts, 12, GREEDY, **arguments) == expected(1)
    assert beam_search(ours, prompts, 12, 4, **arguments) == expected(4)
