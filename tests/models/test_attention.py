"""Attention against float64, and the one property that rotary positions are for."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import made, parameters

from bigjax.models.attention import Attention, KeyValues, attend, attend_by_cudnn, no_cudnn
from bigjax.models.rotary import rotary_frequencies, rotate

normal = nnx.initializers.normal(0.5)


def build(d_model=12, num_heads=6, num_kv_heads=2, rope_theta=None, **options):
    frequencies = (
        rotary_frequencies(options.get("head_dim") or d_model // num_heads, rope_theta) if rope_theta else None
    )

    def make(rngs):
        return Attention(
            d_model,
            num_heads,
            num_kv_heads,
            frequencies=frequencies,
            kernel_init=normal,
            out_init=normal,
            dtype=jnp.float32,
            rngs=rngs,
            **options,
        )

    return made(make)


@jax.jit
def attended(model, x):
    return model(x, causal=True)[0]


def turned(x, theta):
    """Rotary positions in float64, as complex numbers: pair (i, i + H / 2) times exp(i * position * frequency)."""
    half = x.shape[-1] // 2
    pairs = x[..., :half] + 1j * x[..., half:]
    angle = np.arange(x.shape[1])[:, None] / theta ** (np.arange(half) / half)
    pairs = pairs * np.exp(1j * angle)[:, None, :]
    return np.concatenate([pairs.real, pairs.imag], -1)


def reference(p, x, num_heads, num_kv_heads, rope_theta=None, source=None, mask=None):
    """Attention in float64, head by head; query head n uses key head n // (N / K).

    `mask` is bool [B, T, S], causal where it is None.
    """
    source = x if source is None else source

    def project(name, x, heads):
        y = x @ p[f"{name}/kernel"].astype(np.float64) + p.get(f"{name}/bias", 0)
        y = y.reshape(*y.shape[:2], heads, -1)
        if f"{name}_norm/scale" in p:
            y = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6) * p[f"{name}_norm/scale"]
        return y

    query, key = project("query", x, num_heads), project("key", source, num_kv_heads)
    value = project("value", source, num_kv_heads)
    if rope_theta:
        query, key = turned(query, rope_theta), turned(key, rope_theta)
    if mask is None:
        mask = np.tril(np.ones((1, x.shape[1], x.shape[1]), bool))
    heads = []
    for n in range(num_heads):
        k = n // (num_heads // num_kv_heads)
        scores = np.einsum("bth,bsh->bts", query[:, :, n], key[:, :, k]) / np.sqrt(query.shape[-1])
        scores = np.where(mask, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        heads.append(np.einsum("bts,bsh->bth", weights, value[:, :, k]))
    x = np.concatenate(heads, -1)
    return x @ p["out/kernel"].astype(np.float64) + p.get("out/bias", 0)


def randomised(model, seed=0):
    """Biases and norms that are not zeros and ones, so that what they do shows."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.float32(1 + rng.normal(size=leaf.shape) / 2) if leaf.ndim == 1 else leaf, model
    )


@pytest.mark.parametrize(
    ("num_kv_heads", "rope_theta", "options"),
    [
        (6, None, {"use_bias": True}),
        (2, None, {"use_bias": False}),
        (1, 100.0, {"use_bias": True}),
        (3, 10000.0, {"use_bias": False, "head_dim": 8, "qk_norm": True}),
        (6, None, {"use_bias": (True, False, True, True)}),
    ],
)
def test_attention_equals_a_float64_reference(num_kv_heads, rope_theta, options):
    model = randomised(build(num_kv_heads=num_kv_heads, rope_theta=rope_theta, **options))
    x = np.random.default_rng(0).normal(size=(2, 7, 12))
    expected = reference(parameters(model), x, 6, num_kv_heads, rope_theta)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(attended(model, jnp.float32(x)), expected, atol=1e-5)


@pytest.mark.parametrize("length", [64, 65, 150, 700])
@pytest.mark.parametrize("packed", [False, True])
def test_causal_blocks_equal_a_float64_reference(length, packed):
    """Up to 64 positions are one block, 700 are 6 of at most 128; packed, a document begins in the middle of one."""
    model = randomised(build())
    x = np.random.default_rng(0).normal(size=(1, length, 12))
    document = np.arange(length) >= 40
    mask = np.tril(np.ones((1, length, length), bool)) & (document[:, None] == document if packed else True)
    expected = reference(parameters(model), x, 6, 2, mask=mask)
    same = jnp.asarray(document[:, None] == document)[None, None] if packed else None
    call = jax.jit(lambda model, x: model(x, causal=True, mask=same)[0])
    np.testing.assert_allclose(call(model, jnp.float32(x)), expected, atol=1e-5)


@pytest.mark.parametrize("length", [33, 150])
@pytest.mark.parametrize("form", ["causal", "packed", "padded", "headed", "cross", "empty"])
def test_tiles_change_nothing(length, form, monkeypatch):
    """Numbers and gradients of short tiles, with a rest, are those of one block of all, whatever the mask's form."""
    x = jax.random.normal(jax.random.key(0), (2, length, 6, 4))
    source_length = 70 if form == "cross" else length
    source = KeyValues(*jax.random.normal(jax.random.key(1), (2, 2, 3, source_length, 4)))
    document = jnp.arange(length) < length // 2
    mask = {
        "causal": None,
        "packed": (document[:, None] == document)[None, None],
        "padded": (jnp.arange(length) < jnp.array([20, 30])[:, None])[:, None, None],
        "headed": jax.random.bernoulli(jax.random.key(2), 0.5, (2, 6, length, length)).at[..., 0].set(True),
        "cross": None,
        "empty": jnp.zeros((2, 1, 1, length), bool).at[0].set(True),  # the second row sees nothing
    }[form]

    def squares(x, source):
        y = attend(x, source, mask, form in ("causal", "packed"))
        return (y**2).sum(), y

    def both():
        return jax.jit(jax.grad(squares, (0, 1), has_aux=True))(x, source)

    whole = both()
    monkeypatch.setattr("bigjax.models.tiles.TILE", 16)
    tiled = both()
    if form == "empty":  # its keys and values learn nothing, where all of one block would learn from their mean
        assert all((grads[1] == 0).all() for grads in jax.tree.leaves(tiled[0]))
        tiled, whole = (jax.tree.map(lambda x: x[0], found) for found in (tiled, whole))
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-5), tiled, whole)


def test_memory_grows_with_the_length_and_not_with_its_square():
    def temporaries(length):
        x = jax.ShapeDtypeStruct((1, length, 4, 8), jnp.float32)
        source = jax.ShapeDtypeStruct((1, 4, length, 8), jnp.float32)
        grad = jax.jit(jax.grad(lambda x, *source: attend(x, KeyValues(*source), None, True).sum(), (0, 1, 2)))
        return grad.lower(x, source, source).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(16384) < 2.5 * temporaries(8192)


def test_gradients_through_causal_blocks():
    """Equal those through one block with the causal mask given."""
    x = jax.random.normal(jax.random.key(0), (2, 150, 3, 4))
    source = KeyValues(*jax.random.normal(jax.random.key(1), (2, 2, 3, 150, 4)))
    mask = jnp.tril(jnp.ones((150, 150), bool))

    @partial(jax.jit, static_argnames="causal")
    def gradients(x, source, mask, causal):
        return jax.grad(lambda x, s: (attend(x, s, mask, causal) ** 2).sum(), (0, 1))(x, source)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        gradients(x, source, None, True),
        gradients(x, source, mask, False),
    )


@pytest.mark.parametrize("length", [7, 1])
def test_cross_attention_with_padding_equals_a_float64_reference(length):
    model = randomised(build())
    rng = np.random.default_rng(0)
    x, source = rng.normal(size=(2, length, 12)), rng.normal(size=(2, 5, 12))
    real = np.arange(5) < np.array([3, 5])[:, None]  # [B, S]
    expected = reference(parameters(model), x, 6, 2, source=source, mask=np.repeat(real[:, None], length, 1))
    call = jax.jit(lambda model, x, source: model(x, source, mask=real[:, None, None])[0])
    np.testing.assert_allclose(call(model, jnp.float32(x), jnp.float32(source)), expected, atol=1e-5)
    remembered = jax.jit(lambda model, x, source: model(x, model.key_values(source), mask=real[:, None, None])[0])
    np.testing.assert_array_equal(
        remembered(model, jnp.float32(x), jnp.float32(source)), call(model, jnp.float32(x), jnp.float32(source))
    )


@pytest.mark.parametrize("options", [{}, {"rope_theta": 100.0, "qk_norm": True}], ids=["plain", "rotary"])
def test_a_cache_gives_what_the_whole_sequence_gives(options):
    """In pieces of 4, 1 and 2 positions, of rows that stand at different places; what lies behind is never seen."""
    model, behind = build(**options), jnp.array([0, 3])
    x = jax.random.normal(jax.random.key(0), (2, 10, 12))
    whole = attended(model, x)
    cache = jax.tree.map(lambda zeros: zeros + 1e6, model.empty_cache(2, 10))
    step = jax.jit(lambda model, x, positions, cache: model(x, positions=positions, cache=cache))
    _, cache = step(model, x[:, :3], jnp.arange(3), cache)  # of the first row too: it will be written over
    for size in (4, 1, 2):
        positions = behind[:, None] + jnp.arange(size)
        part = jnp.take_along_axis(x, positions[..., None], 1)
        y, cache = step(model, part, positions, cache)
        np.testing.assert_allclose(y, jnp.take_along_axis(whole, positions[..., None], 1), atol=2e-6)
        behind = behind + size


def test_grouped_queries_have_fewer_keys_and_values():
    shapes = {name: array.shape for name, array in parameters(build(use_bias=False)).items()}
    assert shapes == {
        "query/kernel": (12, 12),
        "key/kernel": (12, 4),
        "value/kernel": (12, 4),
        "out/kernel": (12, 12),
    }


@pytest.mark.parametrize("rope_theta", [None, 100.0])
def test_a_later_input_changes_nothing_before_it(rope_theta):
    model = build(rope_theta=rope_theta)
    x = jax.random.normal(jax.random.key(0), (2, 8, 12))
    before, after = attended(model, x), attended(model, x.at[:, 5].add(3))
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert (np.abs(before[:, 5:] - after[:, 5:]).max((0, 2)) > 1e-3).all()


def test_rotary_equals_complex_rotation():
    x = np.random.default_rng(0).normal(size=(2, 9, 3, 8))
    np.testing.assert_allclose(
        rotate(jnp.float32(x), jnp.arange(9), rotary_frequencies(8, 50.0)), turned(x, 50.0), atol=2e-6
    )


def test_rotary_scores_depend_only_on_distance():
    query, key = jax.random.normal(jax.random.key(0), (2, 8))
    length = 20
    queries, keys = (
        rotate(jnp.broadcast_to(v, (1, length, 1, 8)), jnp.arange(length), rotary_frequencies(8, 100.0))[0, :, 0]
        for v in (query, key)
    )
    scores = np.asarray(queries @ keys.T)
    for distance in range(-10, 11):
        diagonal = np.diagonal(scores, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-5)
    assert np.ptp(scores[0]) > 0.5  # and they do depend on it
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), np.linalg.norm(query), rtol=1e-6)


def test_rotary_leaves_position_zero_alone_and_keeps_the_dtype():
    x = jax.random.normal(jax.random.key(0), (1, 2, 1, 4), jnp.bfloat16)
    out = rotate(x, jnp.arange(2), rotary_frequencies(4, 10.0))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out[:, 0], x[:, 0])
    assert (out[:, 1] != x[:, 1]).any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_heads": 5, "num_kv_heads": 5}, "5 does not divide 12"),
        ({"num_heads": 6, "num_kv_heads": 4}, "4 does not divide 6"),
        ({"num_heads": 4, "num_kv_heads": 4, "rope_theta": 10.0}, "even head width, not 3"),
    ],
)
def test_heads_that_do_not_divide_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        build(**arguments)


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        ({"rope_type": "linear", "factor": 4.0}, [0.25, 0.025, 0.0025, 0.00025]),
        # Of 1000 positions the pairs turn 159, 15.9, 1.59 and 0.159 times: the first two are fast, the last is slow.
        (
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 1000,
            },
            [1.0, 0.1, None, 0.001 / 8],
        ),
    ],
)
def test_rotary_scaling(scaling, expected):
    frequencies = rotary_frequencies(8, 10000.0, scaling)
    for actual, wanted in zip(frequencies, expected, strict=True):
        if wanted is None:  # between the two: mixed by where it stands between 1 and 4 turns
            mix = (1000 * 0.01 / (2 * np.pi) - 1) / 3
            wanted = 0.01 * (mix + (1 - mix) / 8)
        assert actual == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(
    ("scaling", "words"),
    [
        ({"rope_type": "yam"}, "'yam'; there are 'default', 'linear', 'llama3'"),
        ({"rope_type": "linear"}, "'linear' takes factor"),
        ({"rope_type": "linear", "factor": 2.0, "beta": 1}, "'linear' takes factor, not factor, beta"),
    ],
)
def test_rotary_scaling_that_is_not_known_is_refused(scaling, words):
    with pytest.raises(ValueError, match=words):
        rotary_frequencies(8, 10000.0, scaling)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"capability": "7.5"}, "needs an NVIDIA GPU of compute capability 8.0 or more, not 7.5"),
        ({"capability": "gfx90a"}, "needs an NVIDIA GPU"),
        ({"dtype": jnp.float32}, "not float32"),
        ({"width": 12}, "not 12"),
        ({"width": 256}, "not 256"),
        ({"length": 7}, ""),
    ],
)
def test_where_cudnn_can_compute(changes, reason):
    given = {"length": 8, "width": 64, "dtype": jnp.bfloat16, "capability": "9.0"} | changes
    query = jax.ShapeDtypeStruct((2, given["length"], 4, given["width"]), given["dtype"])
    found = no_cudnn(query, given["capability"])
    assert reason in found and bool(reason) == bool(found)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [None, (1, 1, 1), (3, 1, 7), (3, 4, 7)])
@pytest.mark.parametrize("source_length", [7, 8])
def test_what_cudnn_is_given_has_even_lengths_and_means_the_same(source_length, masked, causal, monkeypatch):
    """With XLA in place of cuDNN, which needs a GPU."""
    rng, given = np.random.default_rng(0), jax.nn.dot_product_attention

    def by_xla(query, key, value, *, mask, implementation, **options):
        assert implementation == "cudnn" and query.shape[1] % 2 == key.shape[1] % 2 == 0
        assert mask is None or mask.shape[2:] == (query.shape[1], key.shape[1])
        return given(query, key, value, mask=mask, implementation="xla", **options)

    query = jnp.float32(rng.normal(size=(3, 7, 4, 8)))
    key, value = (jnp.float32(rng.normal(size=(3, source_length, 2, 8))) for _ in range(2))
    mask = None if masked is None else jnp.array(rng.random((*masked, source_length)) < 0.7).at[..., 0].set(True)
    expected = attend(query, KeyValues(key.swapaxes(1, 2), value.swapaxes(1, 2)), mask, causal)
    monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)
    np.testing.assert_allclose(attend_by_cudnn(query, key, value, mask, causal), expected, atol=1e-5)
