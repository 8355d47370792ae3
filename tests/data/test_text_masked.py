"""Words hidden for masked language modelling: how many, which, and what stands there instead."""

from itertools import pairwise
from pydoc_data.topics import topics

import numpy as np
import pytest
from helpers import run_python
from tokenizers import Tokenizer, models

from bigjax.data.subwords import subword_tokenizer
from bigjax.data.text_masked import make_masking, text_masked
from bigjax.errors import UserError

ALL = slice(None)


@pytest.fixture(scope="module", params=["wordpiece", "bpe"])
def data(request):
    return text_masked(context=64, tokenizer=request.param, vocab_size=1000)


def batches(split, count=40, size=64):
    return [split.train_batch(0, step, size, ALL) for step in range(count)]


def test_rates(data):
    """15% are chosen; of those 80% are masked, 10% any token, 10% as they were: within 4 standard errors."""
    split = data.splits["train"]
    masking, chosen, ordinary, masked, same = split.masking, 0, 0, 0, 0
    for batch in batches(split):
        hidden = batch["mask"] > 0
        chosen += hidden.sum()
        ordinary += (~masking.special[batch["targets"]]).sum()
        masked += (batch["inputs"][hidden] == masking.mask).sum()
        same += (batch["inputs"][hidden] == batch["targets"][hidden]).sum()
        np.testing.assert_array_equal(batch["inputs"][~hidden], batch["targets"][~hidden])
        replaced = batch["inputs"][hidden]
        assert not masking.special[replaced[replaced != masking.mask]].any()
    assert chosen / ordinary == pytest.approx(0.15, abs=0.005)
    assert masked / chosen == pytest.approx(0.8, abs=4 * (0.16 / chosen) ** 0.5)
    assert same / chosen == pytest.approx(0.1, abs=4 * (0.09 / chosen) ** 0.5 + 0.1 / 1000)


def test_other_tokens_are_drawn_from_all(data):
    split = data.splits["train"]
    found = set()
    for batch in batches(split, 150):
        hidden = (batch["mask"] > 0) & (batch["inputs"] != split.masking.mask)
        found.update(batch["inputs"][hidden & (batch["inputs"] != batch["targets"])].tolist())
    assert len(found) > 0.9 * (~split.masking.special).sum()


def test_words_are_whole_and_special_tokens_and_padding_stay(data):
    masking = data.splits["train"].masking
    for name in ("train", "validation"):
        split = data.splits[name]
        for index in range(split.eval_batches(16)):
            batch = split.eval_batch(index, 16, slice(0, 16))
            targets, hidden, real = batch["targets"], batch["mask"] > 0, batch["real"]
            assert not hidden[masking.special[targets]].any() and not hidden[~real].any()
            assert (targets[:, 0] == masking.begin).all()
            assert (targets[np.arange(16), real.sum(1) - 1] == masking.end).all()
            assert (targets[~real] == masking.pad).all()
            after = masking.special[targets[:, :-1]]
            goes_on = ~masking.word_start[targets[:, 1:]] & ~after & ~masking.special[targets[:, 1:]]
            np.testing.assert_array_equal(hidden[:, 1:][goes_on], hidden[:, :-1][goes_on])


def test_words_are_those_of_the_text(data):
    """Tokens between two word starts decode to text without white space inside."""
    split = data.splits["validation"]
    tokens = np.asarray(split.tokens[:3000]).tolist()
    starts = [i for i, t in enumerate(tokens) if split.masking.word_start[t]]
    words = [data.info["decode"](tokens[a:b]) for a, b in pairwise(starts)]
    assert len(words) > 800
    assert not [word for word in words if " " in word.strip()]


def test_batches_are_functions_of_seed_and_step(data):
    split = data.splits["train"]
    whole = split.train_batch(3, 7, 8, ALL)
    halves = [split.train_batch(3, 7, 8, rows) for rows in (slice(0, 4), slice(4, 8))]
    for key, value in whole.items():
        np.testing.assert_array_equal(value, np.concatenate([half[key] for half in halves]))
    epoch = len(split)  # steps of one row: the same row again, hidden otherwise
    rows = [split.train_batch(0, step, 1, ALL) for step in range(epoch, epoch + 3)]
    assert len({row["inputs"].tobytes() for row in rows}) == 3
    assert (split.train_batch(0, 0, 8, ALL)["mask"] != split.train_batch(0, 1, 8, ALL)["mask"]).any()


def test_evaluation_is_fixed_and_has_every_token_once(data):
    split = data.splits["validation"]
    rows = {}
    for size in (5, 16):
        parts = [split.eval_batch(i, size, slice(0, size)) for i in range(split.eval_batches(size))]
        rows[size] = {key: np.concatenate([p[key] for p in parts])[: len(split)] for key in parts[0]}
    for key, value in rows[5].items():
        np.testing.assert_array_equal(value, rows[16][key])
    inner = rows[5]["real"].copy()
    inner[:, 0] = False
    inner[np.arange(len(inner)), rows[5]["real"].sum(1) - 1] = False
    np.testing.assert_array_equal(rows[5]["targets"][inner], split.tokens)


def test_documents_end_with_a_special_token(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one two three two one"}\n' * 20)
    data = text_masked(str(tmp_path / "a.jsonl"), context=8, vocab_size=20)
    tokens, end = np.asarray(data.splits["train"].tokens), data.splits["train"].masking.end
    assert tokens[0] == end and (tokens == end).sum() == 18
    assert data.splits["train"].masking.special[end]


def test_what_cannot_be_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("one two three")
    with pytest.raises(UserError, match=r"too short for config\.data\.context=128"):
        text_masked(str(tmp_path / "a.txt"), vocab_size=20, holdout=0.3)
    for options in ({"context": 2}, {"mask_rate": 0.0}, {"mask_rate": 1.0}):
        with pytest.raises(UserError, match="context must be 3 or more"):
            text_masked(vocab_size=1000, **options)
    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(UserError, match=r"has no \[PAD\]"):
        make_masking(words, 0.15)
    words.add_special_tokens(["<pad>", "<s>", "</s>", "<mask>"])
    with pytest.raises(UserError, match="must be a WordPiece or a byte-level BPE"):
        make_masking(words, 0.15)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_tokenizers_are_the_same_in_every_process(kind):
    code = (
        "from pydoc_data.topics import topics\n"
        "from bigjax.data.subwords import subword_tokenizer\n"
        f"print(subword_tokenizer({kind!r}, 600, [topics['assignment'], topics['class']]).to_str())"
    )
    here = subword_tokenizer(kind, 600, [topics["assignment"], topics["class"]]).to_str()
    assert run_python(code, RAYON_NUM_THREADS="1").strip() == here
