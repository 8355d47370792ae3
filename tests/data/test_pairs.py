"""Pairs of texts: what is read, tokens and masks, batches by (seed, step), and little padding."""

import json

import numpy as np
import pytest
import tiny_builders.builders  # noqa: F401  (importing them registers them)

from bigjax.data.numerals import english, french, numerals
from bigjax.data.pairs import boxes, translation_pairs
from bigjax.data.prepare import prepare
from bigjax.data.tfds import tfds_translation
from bigjax.errors import UserError

ALL = slice(None)
ROWS = [
    (f"the {'very ' * (i % 7)}old house number {i}", f"das {'sehr ' * (i % 5)}alte Haus Nummer {i}") for i in range(90)
]


def write(path, rows=ROWS, columns=("source", "target")):
    if path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) for row in rows]
    else:
        separator = "," if path.suffix == ".csv" else "\t"
        lines = [separator.join(row) for row in [columns, *rows]]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture
def data(tmp_path):
    files = {name: write(tmp_path / f"{name}.tsv") for name in ("train", "test")}
    return translation_pairs(**files, vocab_size=300, buckets=3)


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
def test_every_pair_comes_with_its_begin_end_and_masks(tmp_path, kind):
    file = write(tmp_path / f"pairs.{kind}", columns=("en", "de"))
    data = translation_pairs(file, test=file, source_column="en", target_column="de", vocab_size=300)
    split, decode, info = data.splits["test"], data.info["decode"], data.info
    assert data.splits["train"].references is None and len(split) == 90
    seen = {}
    for index in range(split.eval_batches(8)):
        batch = split.eval_batch(index, 8, ALL)
        assert batch["source"].dtype == batch["targets"].dtype == batch["inputs"].dtype == np.int32
        assert (batch["stop"] == info["end"]).all() and (batch["inputs"][:, 0] == info["begin"]).all()
        for row, number in enumerate(batch["index"]):
            source, mask = batch["source"][row], batch["source_mask"][row]
            assert mask[: mask.sum()].all() and not source[~mask].any() and source[mask][-1] == info["end"]
            if number < 0:
                assert not batch["mask"][row].any()
                continue
            count = int(batch["mask"][row].sum())
            targets, inputs = batch["targets"][row], batch["inputs"][row]
            assert batch["mask"][row, :count].all() and not targets[count:].any() and not inputs[count:].any()
            assert targets[count - 1] == info["end"]
            np.testing.assert_array_equal(inputs[1:count], targets[: count - 1])
            seen[int(number)] = (decode(source[mask]), decode(targets[:count]))
    assert [seen[i] for i in range(90)] == ROWS
    assert list(split.references.texts) == [target for _, target in ROWS]


def test_a_training_batch_is_a_function_of_seed_and_step_and_cut_by_rows(data):
    split = data.splits["train"]
    for step in (300, 2, 0):
        whole = split.train_batch(5, step, 8, ALL)
        again = split.train_batch(5, step, 8, ALL)
        parts = [split.train_batch(5, step, 8, rows) for rows in (slice(0, 2), slice(2, 8))]
        for key, value in whole.items():
            np.testing.assert_array_equal(value, again[key])
            np.testing.assert_array_equal(value, np.concatenate([part[key] for part in parts]))
    first, other = (split.train_batch(seed, 0, 8, ALL)["source"] for seed in (5, 6))
    assert first.shape != other.shape or (first != other).any()


def test_each_pair_comes_once_an_epoch(tmp_path):
    rows = [(f"a{'b' * (i % 9)} {i}", f"{i}") for i in range(256)]  # a pool of one batch each is an epoch
    split = translation_pairs(write(tmp_path / "a.tsv", rows), validation=write(tmp_path / "b.tsv"), vocab_size=300)
    decode, split = split.info["decode"], split.splits["train"]
    numbers = [int(decode(split.train_batch(0, step, 1, ALL)["targets"][0])) for step in range(256)]
    assert sorted(numbers) == list(range(256)) and numbers != sorted(numbers)


def test_evaluation_is_cut_by_rows(data):
    split = data.splits["test"]
    for index in (0, split.eval_batches(16) - 1):
        whole = split.eval_batch(index, 16, ALL)
        parts = [split.eval_batch(index, 16, rows) for rows in (slice(0, 8), slice(8, 16))]
        for key, value in whole.items():
            np.testing.assert_array_equal(value, np.concatenate([part[key] for part in parts]))


def test_both_sides_fit_their_box_and_little_is_padding():
    rng = np.random.default_rng(0)
    source = np.clip(rng.lognormal(3.2, 0.6, 20_000), 2, 256).astype(int)
    target = np.clip(source * rng.lognormal(0, 0.18, 20_000), 2, 256).astype(int)
    box, shapes = boxes(source, target, 12)
    assert (shapes[box] >= np.stack([source, target], 1)).all() and len(shapes) <= 72
    assert (np.diff(shapes, axis=0) == 0).any(1).sum() >= len(shapes) - 12  # neighbours share a width
    assert 1 - (source + target).sum() / shapes[box].sum() < 0.1


def test_under_a_tenth_of_the_numerals_is_padding():
    split = numerals(train_size=5000).splits["train"]
    batches = [split.train_batch(0, step, 64, ALL) for step in range(100)]
    real = sum(batch["source_mask"].sum() + batch["mask"].sum() for batch in batches)
    assert real / sum(batch["source"].size + batch["targets"].size for batch in batches) > 0.9


def test_long_training_pairs_are_left_out_and_counted_and_others_kept_whole(tmp_path):
    digits = " ".join(str(i * 7919 % 10_007) for i in range(60))  # which hardly repeat
    rows = [*ROWS, (digits, "short"), ("short", digits)]
    file = write(tmp_path / "pairs.tsv", rows)
    data = translation_pairs(file, test=file, validation=file, vocab_size=300, max_length=64)
    assert data.notes == ("left out 2 training pairs of more than config.data.max_length=64 tokens",)
    assert [len(data.splits[name]) for name in ("train", "validation", "test")] == [90, 92, 92]
    assert data.splits["test"].source.lengths.max() > 64
    with pytest.raises(UserError, match=r"Every training pair has more than config.data.max_length=1 tokens"):
        translation_pairs(file, vocab_size=300, max_length=1)


def test_what_is_held_out_is_always_the_same(tmp_path):
    file = write(tmp_path / "pairs.tsv")
    one, other = (translation_pairs(file, vocab_size=300, holdout=0.2) for _ in range(2))
    assert one.fingerprint() == other.fingerprint()
    assert {name: len(split) for name, split in one.splits.items()} == {"train": 72, "validation": 18}
    kept = one.splits["validation"].references.texts
    assert kept != [target for _, target in ROWS[-18:]]
    with pytest.raises(UserError, match="has only 1 pairs: too few to hold out"):
        translation_pairs(write(tmp_path / "one.tsv", ROWS[:1]), vocab_size=300)


def test_a_tokenizer_that_is_there(tmp_path, data):
    (tmp_path / "tokenizer.json").write_text(data.files["tokenizer.json"])
    file = write(tmp_path / "pairs.tsv")
    again = translation_pairs(file, tokenizer=str(tmp_path / "tokenizer.json"))
    assert {key: again.info[key] for key in ("vocab_size", "begin", "end")} == {
        "vocab_size": data.info["vocab_size"],
        "begin": 2,
        "end": 3,
    }
    bare = json.loads(data.files["tokenizer.json"]) | {"post_processor": None}
    (tmp_path / "bare.json").write_text(json.dumps(bare))
    with pytest.raises(UserError, match="has no token that ends a text"):
        translation_pairs(file, tokenizer=str(tmp_path / "bare.json"))


def test_special_tokens_in_a_text_are_text(tmp_path):
    rows = [*ROWS, ("what is [SEP]", "was ist [SEP] ?")]
    file = write(tmp_path / "pairs.tsv", rows)
    data = translation_pairs(file, test=file, vocab_size=300)
    batch = data.splits["test"].eval_batch(0, 91, ALL)
    row = batch["index"].tolist().index(90)
    assert (batch["targets"][row] == data.info["end"]).sum() == 1
    assert data.info["decode"](batch["targets"][row]) == "was ist [SEP] ?"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", r"pairs.tsv' \(config.data.train\) is empty"),
        (b"source\ttarget\n", r"pairs.tsv' \(config.data.train\) has no pairs"),
        (b"source\ttarge\na\tb\n", r"pairs.tsv' has no column 'target' in its first line; did you mean 'targe'"),
        (b"source\ttarget\na\tb\na\t \n", r"pairs.tsv' line 3: there is nothing in 'target'"),
        (b"source\ttarget\na\tb\n\xff\tb\n", r"pairs.tsv' line 3: not UTF-8 at byte 0"),
        (b"source\ttarget\na\n", r"pairs.tsv' line 2: 1 columns, but the first line names 2"),
    ],
)
def test_bad_input_is_named(tmp_path, content, sentence):
    (tmp_path / "pairs.tsv").write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        translation_pairs(str(tmp_path / "pairs.tsv"))


def test_bad_records_are_skipped_and_counted(tmp_path):
    file = tmp_path / "pairs.jsonl"
    write(file)
    file.write_text(file.read_text() + '{"source": "a", "target": 3}\n{"source": "a"}\n')
    with pytest.raises(UserError, match=r"line 91: a side is no text"):
        translation_pairs(str(file), vocab_size=300)
    data = translation_pairs(str(file), vocab_size=300, on_error="skip")
    assert len(data.notes) == 1 and data.notes[0].startswith("skipped 2 bad records: ")


def test_translations_of_tfds(tmp_path):
    prepare("tiny_translations/de-en", str(tmp_path))
    options = {"dataset": "tiny_translations/de-en", "data_dir": str(tmp_path), "vocab_size": 270}
    with pytest.raises(UserError, match=r"Example \d of 'train' of 'tiny_translations/de-en': the target is empty"):
        tfds_translation(**options, source_language="en", target_language="de")
    data = tfds_translation(**options, source_language="en", target_language="de", test_split="test", on_error="skip")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 9, "test": 4}
    assert sorted(data.splits["test"].references.texts) == [f"Häuser {i}" for i in range(4)]
    assert data.notes[0].startswith("skipped 1 bad record:")
    with pytest.raises(UserError, match=r"has no feature 'fr' \(config.data.target_language\); there are: de, en"):
        tfds_translation(**options, source_language="en", target_language="fr")


@pytest.mark.parametrize(
    ("number", "words", "mots"),
    [
        (0, "zero", "zéro"),
        (21, "twenty-one", "vingt et un"),
        (71, "seventy-one", "soixante et onze"),
        (80, "eighty", "quatre-vingts"),
        (81, "eighty-one", "quatre-vingt-un"),
        (97, "ninety-seven", "quatre-vingt-dix-sept"),
        (101, "one hundred and one", "cent un"),
        (300, "three hundred", "trois cents"),
        (80_200, "eighty thousand two hundred", "quatre-vingt mille deux cents"),
        (201_023, "two hundred and one thousand and twenty-three", "deux cent un mille vingt-trois"),
        (1_001, "one thousand and one", "mille un"),
    ],
)
def test_number_words(number, words, mots):
    assert (english(number), french(number)) == (words, mots)


def test_numerals_of_different_splits_are_different_numbers():
    data = numerals(train_size=300, validation_size=50, test_size=50)
    texts = [text for name in ("validation", "test") for text in data.splits[name].references.texts]
    train, decode = data.splits["train"], data.info["decode"]
    texts += [decode(row) for row in train.target.padded(np.arange(300), 60)]
    assert len(set(texts)) == 400
    with pytest.raises(UserError, match="1,000,000 at most"):
        numerals(train_size=1_000_000)
