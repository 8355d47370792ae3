"""The one step: against a closed form, in microbatches, as a pure function, in flax's other mode."""

from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import ROOT, close, made, run_python, same_bits, start_training

from bigjax.config import experiment_config
from bigjax.models.gpt import GPT
from bigjax.models.rnn import RNN
from bigjax.run import read_config
from bigjax.tasks.image_classification import ImageClassification
from bigjax.tasks.language_modelling import LanguageModelling
from bigjax.training.compiler import compiler_options, knows
from bigjax.training.setup import set_up
from bigjax.training.state import random_key
from bigjax.training.step import eval_step, gradients, join_rows, split_rows, train_step

MODELS = {
    "gpt": lambda rngs: GPT(11, 6, 8, 1, 2, rngs=rngs),
    "lstm": lambda rngs: RNN(11, 8, 2, "lstm", rngs=rngs),
    "penalised": lambda rngs: RNN(11, 8, 1, "elman", alpha=2.0, beta=3.0, rngs=rngs),
    "experts": lambda rngs: experts(1.0, rngs),
    "unbalanced": lambda rngs: experts(0.0, rngs),
    "dropping": lambda rngs: RNN(11, 8, 1, "gru", dropout=0.5, rngs=rngs),
}


def experts(balance_weight, rngs):
    options = {"mlp": "swiglu", "num_experts": 5, "balance_weight": balance_weight, "scan_layers": True}
    return GPT(11, 6, 8, 2, 2, **options, rngs=rngs)


class Linear(nnx.Module):
    """Logits x W, of an image of one pixel."""

    def __init__(self, kernel):
        self.kernel = nnx.Param(jnp.float32(kernel))

    def __call__(self, image, train=False, rngs=None):
        return image[:, 0, 0] @ self.kernel[...]


class Normed(nnx.Module):
    """BatchNorm and a linear layer: a model with statistics."""

    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(2, momentum=0.9, rngs=rngs)
        self.head = nnx.Linear(2, 3, rngs=rngs)

    def __call__(self, image, train=False, rngs=None):
        return self.head(self.norm(image[:, 0, 0], use_running_average=not train))


def text(batch=8, length=6, seed=0, masked=True):
    """Random tokens, rows of unequal weight, every other row going on from before."""
    rng = np.random.default_rng(seed)
    mask = np.arange(length) < rng.integers(1, length + 1, batch)[:, None] if masked else np.ones((batch, length))
    return {
        "inputs": rng.integers(0, 11, (batch, length)).astype(np.int32),
        "targets": rng.integers(0, 11, (batch, length)).astype(np.int32),
        "mask": mask.astype(np.float32),
        "bytes": mask.sum(1).astype(np.float32),
        "start": np.arange(batch) % 2 == 0,
    }


def pixels(batch=6, depth=2, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (batch, 1, 1, depth)).astype(np.uint8),
        "label": rng.integers(0, classes, batch).astype(np.int32),
        "mask": (np.arange(batch) != 4).astype(np.float32),
    }


@cache
def setting(name, accumulate_steps=1, seed=0):
    """Program and state of a small language model, its carry not zero."""
    optimizer = optax.sgd(0.5)
    program, state = start_training(
        made(MODELS[name]), LanguageModelling(), optimizer, text(), accumulate_steps, seed=seed
    )
    filled = jax.tree.map(lambda c: np.float32(np.random.default_rng(0).normal(size=c.shape)), state.carry)
    return program, state._replace(carry=filled)


def step(program, state, batch):
    return jax.jit(partial(train_step, program))(state, batch)


@pytest.mark.parametrize("name", ["gpt", "lstm", "penalised"])
def test_microbatches_give_the_gradient_of_the_whole(name):
    batch = text()
    assert len({float(part.sum()) for part in split_rows(batch["mask"], 4)}) > 1  # microbatches weigh unequally
    (program, state), (parts, _) = setting(name), setting(name, 4)
    (whole, sums), (after, parts_sums) = step(program, state, batch), step(parts, state, batch)
    close(after.params, whole.params)  # the gradient times 0.5
    close((after, parts_sums), (whole, sums), atol=1e-6, rtol=1e-6)
    assert sums["grad_norm"] > 0.1


def test_microbatches_take_turns_at_the_rows():
    x = np.arange(24).reshape(12, 2)
    parts = split_rows(x, 3)
    np.testing.assert_array_equal(parts[1], x[1::3])
    np.testing.assert_array_equal(join_rows(parts), x)


def test_sgd_step_equals_its_closed_form():
    kernel, batch = np.random.default_rng(1).normal(size=(2, 3)), pixels()
    task = ImageClassification(mean=(0.0,), std=(1.0,))
    optimizer, decay = optax.sgd(0.3), 0.9
    program, state = start_training(Linear(kernel), task, optimizer, batch, ema_decay=decay)
    x, weight = batch["image"][:, 0, 0] / 255.0, batch["mask"][:, None]
    for count in (1, 2):
        before = state
        state, sums = step(program, state, batch)
        w = np.float64(before.params["kernel"])
        chances = np.exp(x @ w) / np.exp(x @ w).sum(1, keepdims=True)
        gradient = x.T @ ((chances - np.eye(3)[batch["label"]]) * weight) / 5  # one of six rows is masked
        close(state.params["kernel"], w - 0.3 * gradient)
        close(state.ema["kernel"], decay * np.float64(before.ema["kernel"]) + (1 - decay) * (w - 0.3 * gradient))
        assert sums["grad_norm"] == pytest.approx(np.linalg.norm(gradient), abs=1e-6)
        losses = -np.log(chances[np.arange(6), batch["label"]]) * batch["mask"]
        assert sums["loss"] == pytest.approx(losses.sum(), abs=1e-5)
        assert (int(state.step), float(sums["weight"])) == (count, 5)


@pytest.mark.parametrize("share", [0.3, 1.0, 7.0])
def test_clipping_keeps_the_direction_and_bounds_the_norm_but_not_the_decay(share):
    kernel, batch = np.random.default_rng(1).normal(size=(2, 3)), pixels()
    task, decay = ImageClassification(mean=(0.0,), std=(1.0,)), optax.add_decayed_weights(0.2)
    program, state = start_training(Linear(kernel), task, optax.chain(decay, optax.sgd(1.0)), batch)
    plain, sums = step(program, state, batch)
    clipped, same = step(replace(program, clip_norm=share * float(sums["grad_norm"])), state, batch)
    gradient = state.params["kernel"] * 0.8 - plain.params["kernel"]
    close(clipped.params["kernel"], state.params["kernel"] * 0.8 - min(share, 1) * gradient)
    assert same["grad_norm"] == sums["grad_norm"] == pytest.approx(np.linalg.norm(gradient), rel=1e-5)


@pytest.mark.parametrize("others", [{}, {"optimizer.accumulate_steps": 2}, {"finetune.freeze": "conv"}])
def test_a_config_clips_what_learns(others):
    rate, largest = 0.5, 1e-3
    sections = experiment_config(str(ROOT / "experiments" / "digits_cnn.py")).to_dict()
    sections["optimizer"] = {"name": "sgd", "learning_rate": rate, "clip_norm": largest}
    experiment = set_up(read_config(sections, {"train.batch_size": 8} | others))
    batch = experiment.dataset.splits["train"].train_batch(0, 0, 8, slice(0, 8))
    before = jax.device_get((state := experiment.initial_state()).params)
    after, sums = experiment.train_step(state, experiment.to_devices(batch))
    moved = jax.tree.map(np.subtract, jax.device_get(after.params), before)
    assert sums["grad_norm"] > 10 * largest
    assert float(optax.tree.norm(moved)) == pytest.approx(rate * largest, rel=1e-3)


def test_nothing_to_learn_from_moves_nothing_but_by_decay():
    batch = pixels() | {"mask": np.zeros(6, np.float32)}
    task = ImageClassification(mean=(0.0,), std=(1.0,))
    program, state = start_training(Linear(np.ones((2, 3))), task, optax.sgd(1.0), batch)
    after, sums = step(replace(program, clip_norm=0.1), state, batch)
    assert (sums["grad_norm"], sums["bad"]) == (0, 0)
    np.testing.assert_array_equal(after.params["kernel"], state.params["kernel"])


@pytest.mark.skipif(jax.__version_info__ < (0, 12), reason="older XLA copies more")
def test_an_update_holds_the_gradients_beside_the_state_and_nothing_else():
    batch = pixels(depth=1000, classes=500)
    model, task = Linear(np.zeros((1000, 500))), ImageClassification(mean=(0.0,), std=(1.0,))
    program, state = start_training(model, task, optax.adamw(0.1), batch)
    compiled = (
        jax.jit(
            partial(train_step, replace(program, clip_norm=1.0)),
            donate_argnums=0,
            compiler_options=compiler_options(True, "cpu"),
        )
        .lower(state, batch)
        .compile()
    )
    assert compiled.memory_analysis().temp_size_in_bytes < 1.2 * 4 * 1000 * 500


def test_batch_statistics_are_state_and_do_not_learn():
    batch = pixels() | {"mask": np.ones(6, np.float32)}
    task = ImageClassification(mean=(0.0,), std=(1.0,))
    program, state = start_training(made(lambda rngs: Normed(rngs)), task, optax.sgd(0.1), batch)
    assert set(state.statistics["norm"]) == {"mean", "var"}
    after, _ = step(program, state, batch)
    x = batch["image"][:, 0, 0] / 255.0
    close(after.statistics["norm"], {"mean": 0.1 * x.mean(0), "var": 0.9 + 0.1 * x.var(0)})
    sums, *_ = jax.jit(partial(eval_step, program))(after.params, after.statistics, None, batch)
    p, s = jax.device_get((after.params, after.statistics["norm"]))
    normed = (x - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["norm"]["scale"] + p["norm"]["bias"]
    logits = normed @ p["head"]["kernel"] + p["head"]["bias"]
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(6), batch["label"]]
    assert sums["loss"] == pytest.approx(expected.sum(), abs=1e-5)


def test_step_is_pure_and_its_randomness_addressed():
    program, state = setting("dropping")
    compiled, batch = jax.jit(partial(train_step, program)), text()
    first = compiled(state, batch)
    same_bits(compiled(state, batch), first)
    losses = [float(first[1]["loss"])]
    for other in (state._replace(step=np.int32(1)), state._replace(seed=np.uint32(1))):
        losses.append(float(compiled(other, batch)[1]["loss"]))
    assert len(set(losses)) == 3


def test_microbatches_drop_out_differently():
    """Two equal microbatches: were their keys the same, so would their carries be."""
    program, state = setting("dropping", 2)
    row = text(1)
    batch = {key: np.repeat(value, 2, 0) for key, value in row.items()}
    model = nnx.merge(program.graphdef, state.params, state.statistics)
    state = state._replace(carry=program.task.initial_carry(model, batch))
    _, _, _, carry = jax.jit(partial(gradients, program))(state, batch, jax.random.key(0))
    assert np.abs(carry[0][0][0] - carry[0][0][1]).max() > 1e-3


def test_a_penalty_trains_but_is_neither_figure_nor_state():
    program, state = setting("penalised")
    batch = text()
    plain = nnx.clone(nnx.merge(program.graphdef, state.params, state.statistics))
    plain.alpha = plain.beta = 0.0
    without, first = start_training(plain, program.task, program.optimizer, batch)
    first = first._replace(carry=state.carry)
    after, sums = step(program, state, batch)
    _, plain_sums = step(without, first, batch)
    assert sums["loss"] == plain_sums["loss"]
    assert "penalty" not in plain_sums
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert after.statistics == state.statistics == {}
    started = jax.tree.map(lambda c: np.where(batch["start"][:, None], 0, c), state.carry)

    def total(params):
        """Mean cross-entropy and mean penalty over what the mask counts."""
        model = nnx.merge(program.graphdef, params, {})
        logits, _ = model(batch["inputs"], started, train=True, rngs=nnx.Rngs(0))
        penalty = nnx.pop(model, nnx.Intermediate)["penalty"][...]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
        return ((losses + penalty) * batch["mask"]).sum() / batch["mask"].sum()

    expected = jax.jit(jax.grad(total))(state.params)
    close(after.params, jax.tree.map(lambda p, g: p - 0.5 * g, state.params, expected))
    evaluated, *_ = jax.jit(partial(eval_step, program))(state.params, {}, state.carry, batch)
    assert set(evaluated) == {"loss", "weight", "bytes"}
    same_bits(step(program, state, batch)[1], sums)


def test_penalties_do_not_cross_padding():
    """What stands behind the last counted target, and in rows that only fill up, costs nothing."""
    program, state = setting("penalised")
    batch = text()
    garbage = batch | {"inputs": np.where(batch["mask"] > 0, batch["inputs"], (batch["inputs"] + 3) % 11)}
    (after, sums), (others, other_sums) = step(program, state, batch), step(program, state, garbage)
    same_bits((after.params, sums), (others.params, other_sums))
    assert sums["penalty"] > 0


def test_experts_are_balanced_by_what_counts():
    """And padding, which goes through them too, changes neither the loss nor the gradient."""
    program, state = setting("experts")
    batch = text()
    garbage = batch | {"inputs": np.where(batch["mask"] > 0, batch["inputs"], (batch["inputs"] + 3) % 11)}
    (after, sums), (others, other_sums) = step(program, state, batch), step(program, state, garbage)
    close((after.params, sums), (others.params, other_sums), rtol=1e-5)
    np.testing.assert_allclose(sums["expert_tokens"].sum(1), 2 * sums["weight"])  # [L, E]
    np.testing.assert_allclose(sums["penalty"], 2 * sums["balance"], rtol=1e-6)  # of two layers the sum, and the mean
    assert sums["grad_norm"] > 1.01 * step(*setting("unbalanced"), batch)[1]["grad_norm"]


def test_microbatches_send_each_token_where_the_whole_does():
    (whole, sums), (after, parts_sums) = (step(*setting("unbalanced", n), text()) for n in (1, 4))
    close(after.params, whole.params)
    same_bits(parts_sums["expert_tokens"], sums["expert_tokens"])


def test_evaluation_ignores_rows_without_weight_and_drops_nothing():
    program, state = setting("dropping")
    batch, other = text(), text(seed=1)
    blank = other | {key: np.zeros_like(other[key]) for key in ("mask", "bytes")}
    both = {key: np.concatenate([batch[key], blank[key]]) for key in batch}
    evaluate = jax.jit(partial(eval_step, program))
    carry = jax.tree.map(lambda c: np.concatenate([c, c]), state.carry)
    whole, *_ = evaluate(state.params, state.statistics, carry, both)
    part, *_ = evaluate(state.params, state.statistics, state.carry, batch)
    close(whole, part, atol=0, rtol=1e-6)
    same_bits(evaluate(state.params, state.statistics, state.carry, batch)[0], part)


def test_random_keys_differ_by_seed_stream_and_step():
    addresses = [(s, stream, t) for s in (0, 1) for stream in ("init", "step", "dropout") for t in (0, 1, 2)]
    keys = {tuple(jax.random.key_data(random_key(*address)).tolist()) for address in addresses}
    assert len(keys) == len(addresses)


SCRIPT = """
from flax import config
from test_step import setting, step, text
program, state = setting("penalised", 2)
state, sums = step(program, state, text())
state, sums = step(program, state, text(seed=1))
print(config.nnx_graph_mode)
print(repr(float(sums["loss"])))
"""


def test_flax_tree_mode_gives_the_same_loss():
    room = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    quick = str(int(jax.config.read("jax_disable_most_optimizations")))  # as here, for the same bits
    mode, loss = run_python(room + SCRIPT, NNX_GRAPH_MODE="false", JAX_DISABLE_MOST_OPTIMIZATIONS=quick).split()
    program, state = setting("penalised", 2)
    state, _ = step(program, state, text())
    assert mode == "False"
    assert float(loss) == float(step(program, state, text(seed=1))[1]["loss"])


@pytest.mark.parametrize("reproducible", [True, "elastic"])
def test_a_gpu_is_told_to_be_deterministic(reproducible):
    assert compiler_options(reproducible, "gpu") == {"xla_gpu_deterministic_ops": True}
    assert compiler_options(False, "gpu") is compiler_options(reproducible, "tpu") is None
    # XLA knows the option: a misspelt one is refused.
    jax.jit(lambda x: x + 1, compiler_options=compiler_options(reproducible, "gpu"))(1.0)
    with pytest.raises(Exception, match="xla_gpu_deterministic_opps"):
        jax.jit(lambda x: x + 2, compiler_options={"xla_gpu_deterministic_opps": True})(1.0)


@pytest.mark.skipif(jax.__version_info__ < (0, 12), reason="XLA is told so from jax 0.12 on")
@pytest.mark.parametrize("intel", [False, True])
def test_a_cpus_products_are_xlas_own_but_on_intels(intel, monkeypatch):
    monkeypatch.setattr("bigjax.training.compiler.is_intel_with_avx512", lambda: intel)
    options = compiler_options(True, "cpu")

    def called(function, *args):
        text = jax.jit(function, compiler_options=options).lower(*args).compile().as_text()
        return text.partition("ENTRY")[2]

    x, image = jnp.ones((256, 256)), jnp.ones((2, 32, 32, 64))
    assert (" dot(" in called(jnp.matmul, x, x)) != intel  # or in a fusion, which is YNNPACK's
    kernel = jnp.ones((3, 3, 64, 64))
    images = ("NHWC", "HWIO", "NHWC")
    convolve = partial(jax.lax.conv_general_dilated, window_strides=(1, 1), padding="SAME", dimension_numbers=images)
    assert " convolution(" in called(convolve, image, kernel)
    assert "ynn_fusion" in called(lambda x: x.sum(1), x)


def test_an_option_that_xla_has_not_is_left_out():
    assert not knows("xla_cpu_no_such_option", "true")
