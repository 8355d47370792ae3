"""Sequence classification: the loss against closed forms, macro F1 against scikit-learn, what the report shows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import close, made
from sklearn.metrics import f1_score

from bigjax.models.bert import BERT
from bigjax.models.cnn import CNN
from bigjax.models.gpt import GPT
from bigjax.models.rnn_classifier import RNNClassifier
from bigjax.tasks.sequence_classification import SequenceClassification, macro_f1

LOGITS = np.array([[2.0, -1.0, 0.5], [0.0, 0.3, 0.2], [1.0, 1.0, 4.0], [0.0, 9.0, 0.0]])


class Fixed(nnx.Module):
    """The logits of a row are those that its first token numbers."""

    def __call__(self, tokens, mask=None, *, train=False, rngs=None):
        self.mask = nnx.Intermediate(mask)
        return jnp.float32(LOGITS)[tokens[:, 0]]


def batch(rows, labels, mask=None, lengths=None, width=3):
    tokens = np.zeros((len(rows), width), np.int32)
    tokens[:, 0] = rows
    return {
        "tokens": jnp.array(tokens),
        "types": jnp.zeros(tokens.shape, int),
        "lengths": jnp.array(lengths or [width] * len(rows)),
        "label": jnp.array(labels),
        "mask": jnp.ones(len(rows)) if mask is None else jnp.float32(mask),
        "index": jnp.arange(len(rows)),
    }


def cross_entropy(row, target):
    return float(np.log(np.exp(LOGITS[row]).sum()) - (LOGITS[row] * target).sum())


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_loss_by_formula_with_smoothing_only_in_training(smoothing):
    task, data = SequenceClassification(smoothing), batch([0, 1, 2], [1, 1, 2])
    hard = [np.eye(3)[label] for label in (1, 1, 2)]
    soft = [(1 - smoothing) * target + smoothing / 3 for target in hard]
    for train, targets in ((True, soft), (False, hard)):
        sums, carry = task.loss(Fixed(), data, None, train=train, rngs=None)
        expected = sum(cross_entropy(row, target) for row, target in enumerate(targets))
        assert carry is None
        assert float(sums["loss"]) == pytest.approx(expected, abs=1e-5)
        assert (float(sums["correct"]), float(sums["weight"])) == (2, 3)
    assert task.metrics({"loss": 6.0, "correct": 2.0, "weight": 3.0}) == {"loss": 2.0, "accuracy": 2 / 3}


def test_evaluation_gives_the_sums_of_the_loss_and_each_rows_prediction():
    task, data = SequenceClassification(), batch([0, 3, 2, 1], [0, 0, 0, 1])
    sums, carry, outputs = task.evaluate(Fixed(), data, None)
    close(sums, task.loss(Fixed(), data, None, train=False, rngs=None)[0])
    assert carry is None and outputs["prediction"].tolist() == [0, 1, 2, 1]


def test_masked_rows_add_nothing():
    task = SequenceClassification(0.1)
    part, _ = task.loss(Fixed(), batch([0, 1], [0, 2]), None, train=True, rngs=None)
    whole, _ = task.loss(Fixed(), batch([0, 1, 3], [0, 2, 1], [1, 1, 0]), None, train=True, rngs=None)
    close(whole, part)


def test_the_model_is_told_what_is_padding():
    model = Fixed()
    SequenceClassification().logits(model, batch([0, 1], [0, 1], lengths=[1, 3]))
    assert model.mask[...].tolist() == [[True, False, False], [True, True, True]]


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("seed", range(3))
def test_macro_f1_is_scikit_learns(count, seed):
    rng = np.random.default_rng(seed)
    label, guess = rng.integers(0, count, 50), rng.integers(0, count + seed, 50)  # some are only predicted
    guess = np.where(rng.random(50) < 0.5, label, guess)
    expected = f1_score(label, guess, average="macro", zero_division=0)
    assert macro_f1(label, guess) == pytest.approx(expected, abs=1e-12)
    order = rng.permutation(50)
    outputs = {int(i): {"prediction": guess[i]} for i in order}
    assert SequenceClassification().score(outputs, label) == {"macro_f1": pytest.approx(expected, abs=1e-12)}


def test_examples_show_the_surest_mistakes_first():
    info = {"class_names": ["bad", "fair", "good"], "decode": lambda ids: f"text {ids[0]}"}
    batches = [batch([0, 1, 2], [0, 0, 1]), batch([3, 3, 0], [1, 0, 2], [1, 1, 0])]
    shown = SequenceClassification().examples(Fixed(), batches, info)
    assert [row[:3] for row in shown["rows"]] == [
        ["text 3", "bad", "fair"],
        ["text 2", "fair", "good"],
        ["text 1", "bad", "fair"],
        ["text 0", "bad", "bad"],
        ["text 3", "fair", "fair"],
    ]
    assert shown["right"] == [False, False, False, True, True]
    assert shown["rows"][0][3] == pytest.approx(np.exp(9) / (np.exp(9) + 2), rel=1e-5)
    assert shown["kind"] == "table" and shown["note"].startswith("3 of 5 predictions are wrong")


def test_both_texts_of_a_pair_are_shown():
    info = {"class_names": ["a", "b", "c"], "decode": lambda ids: " ".join(map(str, ids))}
    data = batch([2], [0], width=5, lengths=[4])
    data["types"] = jnp.array([[0, 0, 1, 1, 0]])
    assert SequenceClassification().examples(Fixed(), [data], info)["rows"][0][0] == "2 0 | 0 0"


def test_models_of_tokens_with_a_mask_are_taken_and_others_refused():
    def abstract(make):
        return nnx.eval_shape(lambda: make(nnx.Rngs(0)))

    task = SequenceClassification()
    task.check_model(abstract(lambda rngs: RNNClassifier(9, 2, 4, rngs=rngs)))
    sizes = {"d_model": 4, "num_layers": 1, "num_heads": 1}
    task.check_model(
        abstract(lambda rngs: BERT(9, 8, **sizes, head="sequence_classification", num_classes=2, rngs=rngs))
    )
    for make in (lambda rngs: GPT(9, 8, **sizes, rngs=rngs), lambda rngs: CNN(2, (8, 8, 1), rngs=rngs)):
        with pytest.raises(ValueError, match="is no classifier of texts"):
            task.check_model(abstract(make))


@pytest.mark.parametrize("kind", ["bert", "rnn"])
def test_the_loss_of_a_row_does_not_depend_on_its_padding(kind):
    if kind == "rnn":
        model = made(lambda rngs: RNNClassifier(11, 3, 6, rngs=rngs))
    else:
        sizes = {"d_model": 8, "num_layers": 2, "num_heads": 2, "head": "sequence_classification", "num_classes": 3}
        model = made(lambda rngs: BERT(11, 12, **sizes, rngs=rngs))
    tokens = jax.random.randint(jax.random.key(0), (2, 12), 0, 11)
    data = {"types": tokens % 2, "lengths": jnp.array([5, 7]), "label": jnp.array([1, 2]), "mask": jnp.ones(2)}
    task = SequenceClassification()

    def loss(width):
        cut = data | {"tokens": tokens[:, :width], "types": data["types"][:, :width]}
        return task.loss(model, cut, None, train=False, rngs=None)[0]["loss"]

    close(loss(12), loss(7))


def test_smoothing_out_of_range_is_refused():
    with pytest.raises(ValueError, match="label_smoothing"):
        SequenceClassification(1.0)
