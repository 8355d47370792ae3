"""Optimizers by their optax names, schedules and weight decay, each by its closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, everything

from bigjax.config import fill
from bigjax.errors import UserError
from bigjax.parallel.mesh import name_of
from bigjax.training.optimizer import (
    OptimizerOptions,
    decay_mask,
    make_optimizer,
    make_schedule,
    optimizer_schema,
    optimizers,
)

PARAMS = {"mlp": {"kernel": np.arange(1.0, 7).reshape(3, 2), "bias": np.ones(2)}, "scale": np.full(3, 2.0)}
PARAMS = jax.tree.map(np.float32, PARAMS)
GRADS = jax.tree.map(lambda p: np.float32(np.cos(p)), PARAMS)


def section(name="sgd", learning_rate=0.1, **keys):
    """A whole `config.optimizer`, as `resolve` makes it."""
    keys = keys | {"learning_rate": learning_rate}
    return {"name": name} | fill("optimizer", name, keys, optimizer_schema(name))


def updates(config, grads=GRADS, params=PARAMS, count=1, steps=10):
    """The updates of the last of `count` steps with the same gradient."""
    optimizer, _ = make_optimizer(config, steps, everything(PARAMS))
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for _ in range(count):
        result, state = update(grads, state, params)
    return result


@pytest.mark.parametrize("name", optimizers())
def test_every_optimizer_moves_every_parameter_downhill_and_follows_the_schedule(name):
    config = section(name, learning_rate=0.01)
    grads = jax.tree.map(np.ones_like, PARAMS)
    for update in jax.tree.leaves(updates(config, grads)):
        assert np.isfinite(update).all()
        assert (update < 0).all()
    for update in jax.tree.leaves(updates(section(name, learning_rate=0.0), grads)):
        assert np.abs(update).max() < 1e-7  # the rate that is given is the rate that is used


def test_well_known_optimizers_are_there():
    assert {"sgd", "adam", "adamw", "lamb", "lion", "rmsprop", "adafactor", "muon"} <= optimizers().keys()


def test_a_first_moment_in_half_the_bytes():
    optimizer, _ = make_optimizer(section("adamw", mu_dtype="bfloat16"), 10, everything(PARAMS))
    state = jax.tree.leaves(optimizer.init(PARAMS))
    numbers = sum(p.size for p in jax.tree.leaves(PARAMS))
    assert sum(x.nbytes for x in state if x.ndim) == (2 + 4) * numbers
    close(updates(section("adamw", mu_dtype="bfloat16")), updates(section("adamw")), atol=1e-3 * 0.1)


def orthogonal(matrix, update):
    """Whether the update is the matrix with its singular values about 1, as Newton and Schulz's steps make them."""
    u, _, vt = np.linalg.svd(np.float64(matrix), full_matrices=False)
    inner = u.T @ -np.float64(update) @ vt.T
    values = np.diag(inner)
    return (np.abs(inner - np.diag(values)) < 2e-2).all() and (values > 0.65).all() and (values < 1.25).all()


def test_muon_makes_kernels_orthogonal_layer_by_layer_and_leaves_the_rest_to_adam():
    shapes = {
        "blocks": {
            "mlp": {"up": {"kernel": (3, 6, 8)}, "norm": {"scale": (3, 6)}},
            "moe": {"mlp": {"down": (3, 2, 5, 4)}},
        },
        "convolution": {"kernel": (3, 3, 4, 5), "bias": (5,)},
        "depthwise": {"kernel": (3, 1, 5)},
        "embedding": {"embedding": (7, 4)},
        "head": {"kernel": (6, 4)},
    }
    rng = np.random.default_rng(0)
    grads = jax.tree.map(lambda shape: np.float32(rng.normal(size=shape)), shapes, is_leaf=lambda x: type(x) is tuple)
    params = jax.tree.map(np.zeros_like, grads)
    optimizer, _ = make_optimizer(section("muon", 1.0, adam_learning_rate=0.5, nesterov=False), 10, everything(params))
    update, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    for g, u in zip(grads["blocks"]["mlp"]["up"]["kernel"], update["blocks"]["mlp"]["up"]["kernel"], strict=True):
        assert orthogonal(g, u / np.sqrt(8 / 6))  # whose width is scaled for, as Muon has it
    experts = (tree["blocks"]["moe"]["mlp"]["down"].reshape(6, 5, 4) for tree in (grads, update))
    assert all(map(orthogonal, *experts))
    assert orthogonal(*(tree["convolution"]["kernel"].reshape(36, 5) for tree in (grads, update)))
    adam = [("embedding", "embedding"), ("head", "kernel"), ("convolution", "bias"), ("depthwise", "kernel")]
    for module, name in adam:
        close(update[module][name], -0.5 * np.sign(grads[module][name]), atol=1e-4)


def test_muon_gives_adam_the_shape_of_its_schedule():
    """The rate of both falls along the same line."""
    keys = {"schedule": "linear", "beta": 0.0, "adam_b1": 0.0, "nesterov": False}
    both = section("muon", 1.0, adam_learning_rate=0.5, **keys)
    first, last = (updates(both, count=count, steps=4) for count in (1, 4))
    close(last, jax.tree.map(lambda u: u / 4, first), rtol=1e-4)


def test_muon_decays_what_any_optimizer_would():
    """Decoupled, by one mask for its matrices and for what is left to Adam."""
    shared = {"learning_rate": 0.1, "weight_decay": 0.5}
    plain = updates(section("muon", 0.1))
    for which, decayed in {"all": {"kernel", "bias", "scale"}, "matrices": {"kernel"}, "bias$": {"bias"}}.items():
        found = updates(section("muon", weight_decay_mask=which, **shared))
        for name, before, after in (
            (name_of(path), before, after)
            for (path, before), after in zip(jax.tree.leaves_with_path(plain), jax.tree.leaves(found), strict=True)
        ):
            value = PARAMS["scale"] if name == "scale" else PARAMS["mlp"][name.split("/")[1]]
            close(after, before - (0.05 * value if name.split("/")[-1] in decayed else 0), rtol=1e-5)


def test_muon_leaves_alone_what_does_not_learn():
    learns = {"mlp": {"kernel": True, "bias": False}, "scale": True}
    optimizer, _ = make_optimizer(section("muon"), 10, learns)
    found, _ = optimizer.update(GRADS, optimizer.init(PARAMS), PARAMS)
    close(found, updates(section("muon")) | {"mlp": {"kernel": found["mlp"]["kernel"], "bias": np.zeros(2)}})
    assert np.abs(found["mlp"]["kernel"]).max() > 0.01


def test_a_rate_for_adam_below_zero_is_refused():
    with pytest.raises(UserError, match=r"adam_learning_rate is out of range: -1\.0"):
        updates(section("muon", adam_learning_rate=-1.0))


@pytest.mark.parametrize("key", ["muon_weight_dimension_numbers", "adam_weight_decay"])
def test_what_is_decided_for_muon_is_no_key(key):
    with pytest.raises(UserError, match=key):
        section("muon", **{key: 0.1})


def test_sgd_with_momentum():
    expected = jax.tree.map(lambda g: -0.1 * (1 + 0.9 + 0.81) * g, GRADS)
    close(updates(section(momentum=0.9), count=3), expected)


def test_adam_by_formula():
    m, v = (1 - 0.9) * (1 + 0.9), (1 - 0.99) * (1 + 0.99)
    expected = jax.tree.map(lambda g: -0.1 * (m * g / (1 - 0.9**2)) / (np.sqrt(v * g**2 / (1 - 0.99**2)) + 1e-8), GRADS)
    close(updates(section("adam", b2=0.99), count=2), expected, atol=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
@pytest.mark.parametrize("warmup", [0, 1, 10])
def test_schedules_by_closed_form(schedule, warmup):
    peak, final, steps = 0.3, 0.1, 110
    rate = make_schedule(OptimizerOptions(peak, schedule, warmup, final), steps)

    def expected(step):
        if step < warmup:
            return peak * (step + 1) / warmup
        share = (step - warmup) / (steps - warmup)
        left = {"constant": 1, "cosine": (1 + np.cos(np.pi * share)) / 2, "linear": 1 - share}[schedule]
        floor = 1 if schedule == "constant" else final
        return peak * (floor + (1 - floor) * left)

    for step in (0, 1, warmup // 2, max(warmup - 1, 0), warmup, warmup + 1, 60, steps - 1, steps):
        assert float(rate(step)) == pytest.approx(expected(step), rel=1e-5), step
    assert float(rate(0)) > 0


@pytest.mark.parametrize("warmup", [0, 5])
def test_a_rate_that_falls_by_tenths(warmup):
    options = OptimizerOptions(0.4, "step", warmup)
    rate = make_schedule(options, 90)
    expected = {warmup: 0.4, 29: 0.4, 31: 0.04, 59: 0.04, 61: 0.004, 79: 0.004, 81: 0.0004, 89: 0.0004}
    for step, value in expected.items():
        assert float(rate(step)) == pytest.approx(value, rel=1e-5), step
    assert warmup == 0 or float(rate(0)) == pytest.approx(0.4 / 5)
    with pytest.raises(ValueError, match="milestones is out of range"):
        OptimizerOptions(0.4, "step", milestones=(0.5, 1.0))


def test_rsqrt_is_the_transformers_schedule():
    """Vaswani et al. 2017, equation 3, whose steps count from 1."""
    d_model, warmup = 512, 40
    rate = make_schedule(OptimizerOptions((d_model * warmup) ** -0.5, "rsqrt", warmup), 500)
    for step in (1, 2, 39, 40, 41, 42, 160, 500):
        expected = d_model**-0.5 * min(step**-0.5, step * warmup**-1.5)
        assert float(rate(step - 1)) == pytest.approx(expected, rel=1e-6), step


def test_rsqrt_without_warmup_is_refused():
    with pytest.raises(UserError, match="schedule='rsqrt' falls from where warm-up ends: set warmup_steps"):
        make_schedule(OptimizerOptions(0.1, "rsqrt"), 10)


def test_warmup_that_never_ends_is_refused():
    with pytest.raises(UserError, match="warmup_steps is 10, but the run has only 10 steps"):
        make_schedule(OptimizerOptions(0.1, "constant", 10), 10)


def test_schedule_drives_the_updates():
    config = section(schedule="linear", warmup_steps=2)
    for count, rate in ((1, 0.05), (2, 0.1), (3, 0.1), (4, 0.1 * 7 / 8)):
        close(updates(config, count=count), jax.tree.map(lambda g, rate=rate: -rate * g, GRADS))


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("matrices", {"mlp": {"kernel": True, "bias": False}, "scale": False}),
        ("all", {"mlp": {"kernel": True, "bias": True}, "scale": True}),
        ("^mlp/", {"mlp": {"kernel": True, "bias": True}, "scale": False}),
        ("bias|scale", {"mlp": {"kernel": False, "bias": True}, "scale": True}),
    ],
)
def test_decay_masks(which, expected):
    assert decay_mask(PARAMS, which) == expected


def test_a_stack_of_layers_biases_is_no_matrix():
    stack = {"blocks": {"norm": {"bias": np.zeros((4, 3))}, "up": {"kernel": np.zeros((4, 3, 5))}}}
    assert decay_mask(stack, "matrices") == {"blocks": {"norm": {"bias": False}, "up": {"kernel": True}}}


def test_a_mask_that_finds_nothing_is_refused():
    with pytest.raises(UserError, match="'kernal' is found in no parameter's name"):
        decay_mask(PARAMS, "kernal")


@pytest.mark.parametrize("which", ["matrices", "all", "scale"])
def test_weight_decay_of_sgd_is_the_gradient_of_half_a_square(which):
    config = section(weight_decay=0.2, weight_decay_mask=which, momentum=0.9)

    def loss(params):
        decayed = jax.tree.map(lambda p, m: m * (p**2).sum(), params, decay_mask(params, which))
        linear = jax.tree.map(lambda p, g: (p * g).sum(), params, GRADS)
        return sum(jax.tree.leaves(linear)) + 0.2 / 2 * sum(jax.tree.leaves(decayed))

    grads = jax.grad(loss)(PARAMS)
    close(updates(config, count=2), updates(section(momentum=0.9), grads, count=2))
    assert float(jnp.abs(grads["mlp"]["kernel"] - GRADS["mlp"]["kernel"]).max()) > 0.5 or which == "scale"


@pytest.mark.parametrize("name", ["adamw", "lion"])
@pytest.mark.parametrize("which", ["matrices", "scale"])
def test_weight_decay_of_adamw_is_decoupled(name, which):
    plain = updates(section(name, weight_decay=0.0))
    decayed = updates(section(name, weight_decay=0.2, weight_decay_mask=which))
    mask = decay_mask(PARAMS, which)
    close(decayed, jax.tree.map(lambda u, p, m: u - 0.1 * 0.2 * p * m, plain, PARAMS, mask))


def test_a_mask_that_finds_nothing_is_refused_by_the_optimizer():
    for config in (section(weight_decay=0.1, weight_decay_mask="x"), section("adamw", weight_decay_mask="x")):
        with pytest.raises(UserError, match="found in no parameter's name"):
            make_optimizer(config, 10, everything(PARAMS))[0].init(PARAMS)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("learning_rate", -1.0),
        ("warmup_steps", -1),
        ("final_fraction", 1.5),
        ("clip_norm", 0.0),
        ("weight_decay", -0.1),
        ("accumulate_steps", 0),
        ("ema_decay", 1.0),
    ],
)
def test_options_out_of_range_are_refused(key, value):
    with pytest.raises(ValueError, match=f"{key} is out of range: {value}"):
        OptimizerOptions(**({"learning_rate": 0.1} | {key: value}))


def test_names_and_keys_that_optax_lacks_are_refused():
    with pytest.raises(UserError, match="did you mean 'adamw'"):
        optimizer_schema("admw")
    with pytest.raises(UserError, match="did you mean 'momentum'"):
        section(momentun=0.9)
    with pytest.raises(UserError, match=r"no key 'config\.optimizer\.momentum'"):
        section("adamw", momentum=0.9)


def test_an_optimizers_own_defaults_are_optaxs():
    assert section("adamw")["weight_decay"] == 1e-4
    assert section("adam")["b2"] == 0.999
    assert section("sgd")["weight_decay"] == 0.0
