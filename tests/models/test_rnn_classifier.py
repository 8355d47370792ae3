"""The recurrent classifier: its pooling in closed form, and that padding changes nothing."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import apply, close, made, parameters, same_bits

from bigjax.models.rnn_classifier import RNNClassifier

POOLS = ("last", "mean", "max")
LENGTHS = (7, 4)


@cache
def build(**kwargs):
    return made(lambda rngs: RNNClassifier(11, 3, **({"d_model": 6, "num_layers": 2} | kwargs), rngs=rngs))


def tokens(batch=2, length=7, seed=0):
    return jax.random.randint(jax.random.key(seed), (batch, length), 0, 11)


def mask(width=7):
    return np.arange(width) < np.array(LENGTHS)[:, None]


@pytest.mark.parametrize("pool", POOLS)
def test_a_row_alone_and_padded_in_a_batch_has_the_same_logits_and_gradients(pool):
    x = tokens()
    graphdef, params = nnx.split(build(pool=pool), nnx.Param)

    def padded(model):
        return model(jnp.pad(x, ((0, 0), (0, 5)), constant_values=9), jnp.array(mask(12)))

    def alone(model):
        return jnp.concatenate([model(x[i : i + 1, :length]) for i, length in enumerate(LENGTHS)])

    @jax.jit
    def gradients(params):
        def of(logits):
            def loss(params):
                rows = logits(nnx.merge(graphdef, params))
                return jnp.sin(rows).sum(), rows

            return jax.grad(loss, has_aux=True)(params)

        return of(padded), of(alone)

    close(*gradients(params), atol=1e-6)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_pooling_in_closed_form(bidirectional):
    x, real = tokens(), mask()
    for pool in POOLS:
        model = build(pool=pool, bidirectional=bidirectional)
        outputs, _ = apply(model.layers, model.embedding(x), None, jnp.array(LENGTHS))  # [B, T, D]
        rows = [np.asarray(outputs)[i, :length] for i, length in enumerate(LENGTHS)]
        if pool == "last":
            ends = [np.concatenate([row[-1, :6], row[0, 6:]]) for row in rows]
        else:
            ends = [getattr(row, pool)(0) for row in rows]
        p = parameters(model)
        close(apply(model, x, jnp.array(real)), np.stack(ends) @ p["head/kernel"] + p["head/bias"], atol=1e-6)


def test_names_and_shapes_of_parameters_are_a_contract():
    shapes = {name: array.shape for name, array in parameters(build(d_hidden=5)).items()}
    layers = {f"layers/{i}/recurrent/kernel": (5, 20) for i in range(4)}
    layers |= {f"layers/{i}/input/kernel": (6 if i < 2 else 10, 20) for i in range(4)}
    layers |= {f"layers/{i}/input/bias": (20,) for i in range(4)}
    assert shapes == {"embedding/embedding": (11, 6), "head/kernel": (10, 3), "head/bias": (3,)} | layers


def test_dropout_acts_only_in_training():
    model, plain = build(dropout=0.5), build()

    @partial(jax.jit, static_argnames="train")
    def logits(model, seed, train):
        return model(tokens(), jnp.array(mask()), train=train, rngs=nnx.Rngs(dropout=jax.random.key(seed)))

    same_bits(logits(model, 1, train=False), apply(plain, tokens(), jnp.array(mask())))
    assert np.abs(logits(model, 1, train=True) - logits(model, 2, train=True)).max() > 1e-3
    same_bits(logits(model, 1, train=True), logits(model, 1, train=True))


@pytest.mark.parametrize("pool", POOLS)
def test_bfloat16_is_near_and_keeps_float32_parameters(pool):
    model = build(pool=pool, dtype=jnp.bfloat16)
    assert {p.dtype for p in parameters(model).values()} == {np.dtype(np.float32)}
    logits = apply(model, tokens(), jnp.array(mask()))
    assert logits.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        logits.astype(np.float32), apply(build(pool=pool), tokens(), jnp.array(mask())), atol=0.05
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"pool": "first"}, "pool must be one of last, mean, max, not first"),
        ({"cell": "lstn"}, "cell must be one of"),
        ({"num_classes": 0}, "num_classes must be positive"),
        ({"num_layers": 0}, "num_layers must be positive"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        RNNClassifier(**{"vocab_size": 9, "num_classes": 2, "d_model": 4} | arguments, rngs=nnx.Rngs(0))
