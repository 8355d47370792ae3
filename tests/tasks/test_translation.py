"""Translation: the loss against float64, decoding against `generate`, scores against sacreBLEU, padding, devices."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import apply, made, run_python
from tokenizers import Tokenizer

from bigjax.data.pairs import References
from bigjax.inference.beam import beam_search
from bigjax.inference.generate import generate
from bigjax.inference.sampling import GREEDY
from bigjax.models.encoder_decoder import EncoderDecoder, Source
from bigjax.models.gpt import GPT
from bigjax.tasks.translation import Translation

VOCAB, BEGIN, END = 23, 2, 3
TASK = Translation(max_new_tokens=9)


def build():
    return made(lambda rngs: EncoderDecoder(VOCAB, 12, 2, 3, 20, dropout=0.0, rngs=rngs))


def batch(pairs, source_width=None, target_width=None):
    """Pairs of tokens, without special ones, as the data give them."""
    source_width = source_width or max(len(source) for source, _ in pairs) + 1
    target_width = target_width or max(len(target) for _, target in pairs) + 1
    source = np.zeros((len(pairs), source_width), np.int32)
    inputs, targets = np.zeros((2, len(pairs), target_width), np.int32)
    mask = np.zeros((len(pairs), target_width), np.float32)
    for row, (one, other) in enumerate(pairs):
        source[row, : len(one) + 1] = [*one, END]
        inputs[row, : len(other) + 1] = [BEGIN, *other]
        targets[row, : len(other) + 1] = [*other, END]
        mask[row, : len(other) + 1] = 1
    real = np.arange(source_width) <= np.array([len(one) for one, _ in pairs])[:, None]
    return {
        "source": source,
        "source_mask": real,
        "inputs": inputs,
        "targets": targets,
        "mask": mask,
        "index": np.arange(len(pairs), dtype=np.int32),
        "stop": np.full(len(pairs), END, np.int32),
    }


PAIRS = [([5, 6, 7, 8], [9, 10]), ([11], [12, 13, 14, 15, 16]), ([17, 18, 19], [20])]


@jax.jit
def evaluated(model, batch):
    return TASK.evaluate(model, batch, None)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_against_float64(smoothing):
    model, data = build(), batch(PAIRS)
    task = Translation(label_smoothing=smoothing)
    sums, _ = jax.jit(lambda model, data: task.loss(model, data, None, train=True, rngs=nnx.Rngs(0)))(model, data)
    logits = np.asarray(apply(model, data["source"], data["inputs"], data["source_mask"]), np.float64)
    chances = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = np.full(logits.shape, smoothing / VOCAB)
    rows, columns = np.indices(data["targets"].shape)
    wanted[rows, columns, data["targets"]] += 1 - smoothing
    mask = data["mask"] > 0
    assert float(sums["loss"]) == pytest.approx(-(wanted * chances).sum(-1)[mask].sum(), rel=1e-6)
    nats = -chances[rows, columns, data["targets"]][mask]
    assert float(sums["nats"]) == pytest.approx(nats.sum(), rel=1e-6)
    assert float(sums["weight"]) == mask.sum() == 11
    figures = task.metrics({key: float(value) for key, value in sums.items()})
    assert figures["perplexity"] == pytest.approx(np.exp(nats.mean()), rel=1e-5)
    assert figures["accuracy"] == pytest.approx((logits.argmax(-1) == data["targets"])[mask].mean(), rel=1e-6)


def test_evaluation_is_not_smoothed():
    sums, _, _ = evaluated(build(), batch(PAIRS))
    assert float(sums["loss"]) == float(sums["nats"])


def test_a_pair_does_not_depend_on_the_batch():
    """Neither its loss nor its translation depends on the widths, the other pairs or its place."""
    model = build()
    sums, _, outputs = evaluated(model, batch(PAIRS))
    alone = [evaluated(model, batch([pair], 11, 13)) for pair in PAIRS]
    for key, value in sums.items():
        assert float(value) == pytest.approx(sum(float(one[0][key]) for one in alone), rel=1e-5), key
    np.testing.assert_array_equal(outputs["tokens"], np.concatenate([one[2]["tokens"] for one in alone]))


def test_a_row_that_only_fills_the_batch_up_costs_nothing():
    model, data = build(), batch([*PAIRS, PAIRS[-1]])
    data["mask"][3] = 0
    with_it, without = evaluated(model, data)[0], evaluated(model, batch(PAIRS))[0]
    for key, value in without.items():
        assert float(with_it[key]) == pytest.approx(float(value), rel=1e-6), key


def test_translations_are_those_of_generate_and_beam_search():
    model, data = build(), batch(PAIRS)
    source = Source(jnp.asarray(data["source"]), jnp.asarray(data["source_mask"]))
    prompts = [[BEGIN]] * 3

    def rows(tokens):
        return [row[row >= 0].tolist() for row in np.asarray(tokens)]

    greedy = generate(model, prompts, 9, GREEDY, source=source, stop=[END])
    assert rows(evaluated(model, data)[2]["tokens"]) == greedy
    task = Translation(max_new_tokens=9, num_beams=3, length_penalty=0.6)
    options = {"source": source, "stop": [END], "length_penalty": 0.6, "length_offset": 5.0}
    assert rows(jax.jit(task.translate)(model, data)) == beam_search(model, prompts, 9, 3, **options)


class Words:
    """A tokenizer whose tokens are a list of words."""

    def __init__(self, texts):
        self.words = sorted({word for text in texts for word in text.split()})

    def encode(self, text):
        return np.array([*(self.words.index(word) for word in text.split()), -1, -1], np.int32)

    def decode(self, tokens):
        return " ".join(self.words[token] for token in tokens)


# From sacreBLEU's README: one system and the first of its references.
SYSTEM = [
    "The dog bit the man.",
    "It wasn't surprising.",
    "The man had just bitten him.",
]
REFERENCES = [
    "The dog bit the man.",
    "It was not unexpected.",
    "The man bit him first.",
]


def test_scores_are_those_of_sacrebleu(tmp_path):
    words = Words([*SYSTEM, *REFERENCES])
    outputs = {number: {"tokens": words.encode(text)} for number, text in reversed(list(enumerate(SYSTEM)))}
    figures = TASK.score(outputs, References(REFERENCES, words))
    (tmp_path / "system").write_text("\n".join(SYSTEM) + "\n")
    (tmp_path / "references").write_text("\n".join(REFERENCES) + "\n")
    command = [sys.executable, "-m", "sacrebleu", "references", "-i", "system", "-m", "bleu", "chrf", "-w", "8"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    published = {one["name"]: one["score"] for one in json.loads(done.stdout)}
    assert figures["bleu"] == pytest.approx(published["BLEU"], abs=1e-6)
    assert figures["chrf"] == pytest.approx(published["chrF2"], abs=1e-6)
    right = {number: {"tokens": words.encode(text)} for number, text in enumerate(REFERENCES)}
    assert TASK.score(right, References(REFERENCES, words)) == pytest.approx({"bleu": 100, "chrf": 100})
    assert TASK.score(right, None) == {}  # of the training split


@pytest.mark.slow
def test_evaluation_on_several_devices_gives_the_same_figures():
    code = """
import json, jax, bigjax
from bigjax.training.setup import resolve, set_up
from bigjax.training.evaluate import evaluate
config = {
    "model": {"name": "encoder_decoder", "d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 16},
    "task": {"name": "translation", "max_new_tokens": 6},
    "data": {"name": "numerals", "train_size": 40, "validation_size": 7, "vocab_size": 280, "buckets": 1},
    "optimizer": {"name": "adam", "learning_rate": 0.001},
    "train": {"steps": 1, "batch_size": 4},
}
found = []
for beams in (1, 2):
    experiment = set_up(resolve(config, {"task.num_beams": beams}))
    state = experiment.initial_state()
    found.append(evaluate(experiment, state.params, state.statistics, "validation"))
print(json.dumps(found))
"""
    one, two = (json.loads(run_python(code, devices, JAX_DISABLE_MOST_OPTIMIZATIONS="1")) for devices in (1, 2))
    for figures, others in zip(one, two, strict=True):
        assert figures.keys() == {"loss", "perplexity", "accuracy", "bleu", "chrf"}
        assert figures == pytest.approx(others, rel=1e-5)


def test_what_cannot_be():
    with pytest.raises(ValueError, match="a GPT reads no source with a mask"):
        TASK.check_model(made(lambda rngs: GPT(VOCAB, 8, 16, 1, 2, rngs=rngs)))
    with pytest.raises(ValueError, match="label_smoothing must be in"):
        Translation(label_smoothing=1.0)
    with pytest.raises(ValueError, match="num_beams and max_new_tokens must be positive"):
        Translation(num_beams=0)


def test_examples_are_a_table_of_texts():
    model, data = build(), batch(PAIRS)
    data["index"][1] = -1
    names = {f"t{i}": i for i in range(VOCAB)}
    tokenizer = Tokenizer.from_str(
        json.dumps(
            {
                "version": "1.0",
                "added_tokens": [],
                "pre_tokenizer": {"type": "Whitespace"},
                "model": {"type": "WordLevel", "vocab": names, "unk_token": "t1"},
            }
        )
    )
    shown = TASK.examples(model, [data], {"decode": References((), tokenizer).decode})
    assert shown["kind"] == "table" and len(shown["rows"]) == len(shown["right"]) == 2
    assert shown["rows"][0][0].startswith("t5 t6 t7 t8 t3") and "tok:13a" in shown["note"]
