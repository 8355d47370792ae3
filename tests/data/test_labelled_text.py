"""Labelled texts: what a table's rows become, what is bad in them, and batches that are functions of (seed, step)."""

import json
import os
import re
import tarfile
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from bigjax.data.labelled_text import text_table
from bigjax.data.prepare import prepare
from bigjax.data.tfds import tfds_labelled_text
from bigjax.errors import UserError

ALL = slice(None)
SHARED = Path(os.environ.get("BIGJAX_SHARED_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")) / "sst2"
WORDS = ("a", "fine", "film", ",", "dull", "from", "start", "to", "end", "but", "never", "bad", "full", "of", "wit")
LEARN = {"vocab_size": 90, "holdout": 0.2}


def sentences(count, seed=0, longest=30):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, longest))) for _ in range(count)]


def write(path, rows, header=("text", "label")):
    """Rows as a table of the kind that its name says."""
    if path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(header, row, strict=True))) for row in rows]
    else:
        lines = ["\t".join(map(str, row)) for row in (header, *rows)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """100 sentences of three classes."""
    rows = [(text, ("good", "bad", "so so")[i % 3]) for i, text in enumerate(sentences(100))]
    return write(tmp_path_factory.mktemp("table") / "a.tsv", rows)


def decoded(data, name):
    """Every text of a split, in order, with its label's name."""
    split = data.splits[name]
    batch = split.eval_batch(0, len(split), ALL)
    rows = {
        int(index): (data.info["decode"](tokens[:length]), data.info["class_names"][label])
        for index, tokens, length, label in zip(
            batch["index"], batch["tokens"], batch["lengths"], batch["label"], strict=True
        )
    }
    return [rows[i] for i in range(len(split))]


@pytest.mark.parametrize("kind", ["tsv", "jsonl"])
@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["pos", "neg", "pos", "neutral"], ["neg", "neutral", "pos"]),
        ([10, 9, 10, 2], ["2", "9", "10"]),
        (["10", "9", "b", "9"], ["10", "9", "b"]),
        (["1", "01", "0", "1"], ["0", "01", "1"]),
    ],
)
def test_classes_are_the_training_labels_in_order(tmp_path, kind, labels, names):
    rows = list(zip(["a fine film", "dull", "full of wit", "never bad"], labels, strict=True))
    file = write(tmp_path / f"a.{kind}", rows)
    data = text_table(file, validation=write(tmp_path / f"b.{kind}", rows[:1]), vocab_size=90)
    assert data.info["class_names"] == names and data.info["num_classes"] == len(names)
    assert decoded(data, "train") == [(text, str(label)) for text, label in rows]
    assert decoded(data, "validation") == [(rows[0][0], str(labels[0]))]


def test_the_official_files_of_sst2(tmp_path):
    (tmp_path / "train.tsv").write_text('sentence\tlabel\nhide " new secretions \t0\ncontains no wit \t1\n')
    (tmp_path / "test.tsv").write_text("index\tsentence\n0\tuneasy mishmash of styles\n")
    files = {name: str(tmp_path / f"{name}.tsv") for name in ("train", "test")}
    options = {"text_column": "sentence", "vocab_size": 90, "validation": files["train"]}
    data = text_table(files["train"], **options)
    assert decoded(data, "train") == [('hide " new secretions', "0"), ("contains no wit", "1")]
    with pytest.raises(UserError, match=r"test.tsv' has no column 'label' in its first line; choose from index, sent"):
        text_table(**files, **options)


def test_what_is_held_out_is_drawn_once_and_for_all(table):
    data, again = text_table(table, **LEARN), text_table(table, **LEARN)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 80, "validation": 20}
    assert data.fingerprint() == again.fingerprint()
    assert data.fingerprint() != text_table(table, **LEARN | {"holdout": 0.3}).fingerprint()
    lines = [tuple(line.split("\t")) for line in Path(table).read_text().splitlines()[1:]]
    found = [(text.replace(" ,", ","), label) for name in data.splits for text, label in decoded(data, name)]
    assert sorted(found) == sorted((text.replace(" ,", ","), label) for text, label in lines)
    assert len(set(data.splits["validation"].labels)) == 3


def test_pairs_have_two_types_and_the_longer_is_cut(tmp_path):
    rows = [("a dull film", "full of wit", 0), ("bad " * 20, "fine", 1)]
    file = write(tmp_path / "a.tsv", rows, ("first", "second", "label"))
    data = text_table(file, validation=file, text_column="first", pair_column="second", vocab_size=90, max_length=10)
    assert data.info["pairs"]
    batch = data.splits["train"].eval_batch(0, 2, ALL)
    order = np.argsort(batch["index"])
    tokens, types, lengths = (batch[key][order] for key in ("tokens", "types", "lengths"))
    ids = json.loads(data.files["tokenizer.json"])["model"]["vocab"]
    begin, end = ids["[CLS]"], ids["[SEP]"]
    assert tokens[0, 0] == begin and (tokens == end).sum(1).tolist() == [2, 2]
    assert types[0, :9].tolist() == [0] * 5 + [1] * 4
    assert lengths.tolist() == [9, 10] and types[1, :10].tolist() == [0] * 8 + [1] * 2
    assert data.info["decode"](tokens[1, 8:10]) == "fine" and tokens[1, 9] == end


def test_what_is_too_long_is_cut_and_keeps_its_special_tokens(table):
    whole, cut = text_table(table, **LEARN), text_table(table, **LEARN, max_length=8)
    assert whole.splits["train"].tokens.ids.lengths.max() > 20
    split = cut.splits["train"]
    batch = split.eval_batch(0, len(split), ALL)
    assert batch["tokens"].shape == (80, 8) and batch["lengths"].max() == 8
    first, last = batch["tokens"][:, 0], batch["tokens"][np.arange(80), batch["lengths"] - 1]
    assert len(set(first)) == len(set(last)) == 1
    assert '"truncation":null' in re.sub(r"\s", "", cut.files["tokenizer.json"])  # it goes with the run as it came


@pytest.mark.parametrize("tokenizer", ["wordpiece", "bpe"])
def test_a_run_with_the_tokenizer_of_another_has_the_same_tokens(table, tmp_path, tokenizer):
    learned = text_table(table, holdout=0.2, tokenizer=tokenizer, vocab_size=300)
    (tmp_path / "tokenizer.json").write_text(learned.files["tokenizer.json"])
    given = text_table(table, holdout=0.2, tokenizer=str(tmp_path))
    assert given.fingerprint() == learned.fingerprint()
    assert given.info["vocab_size"] == learned.info["vocab_size"] == 300 or tokenizer == "wordpiece"


def test_a_batch_depends_on_seed_and_step_alone_and_processes_share_it(table):
    split, other = (text_table(table, **LEARN).splits["train"] for _ in range(2))
    widths = set()
    for step in (7, 0, 200):
        whole = split.train_batch(3, step, 8, ALL)
        parts = [other.train_batch(3, step, 8, slice(i, i + 2)) for i in range(0, 8, 2)]
        for key, value in whole.items():
            np.testing.assert_array_equal(value, np.concatenate([part[key] for part in parts]))
        assert {k: v.dtype for k, v in whole.items()} == {
            "tokens": np.int32, "types": np.int32, "lengths": np.int32, "label": np.int32, "mask": np.float32
        }  # fmt: skip
        widths.add(whole["tokens"].shape[1])
    assert len(widths) > 1
    assert (split.train_batch(4, 0, 8, ALL)["label"] != split.train_batch(3, 0, 8, ALL)["label"]).any()


def test_an_epoch_has_every_text_once(table):
    split = text_table(table, **LEARN).splits["train"]
    pool = [split.train_batch(0, step, 5, ALL) for step in range(64)]  # 320 texts are four epochs
    seen = sorted(tuple(t[:n]) for b in pool for t, n in zip(b["tokens"], b["lengths"], strict=True))
    ids = split.tokens.ids
    assert seen == sorted(4 * [tuple(ids.values[a:b]) for a, b in pairwise(ids.offsets)])


def test_evaluation_has_every_text_once_on_every_process(table):
    split = text_table(table, **LEARN).splits["validation"]
    seen = []
    for index in range(split.eval_batches(8)):
        whole = split.eval_batch(index, 8, ALL)
        halves = [split.eval_batch(index, 8, rows) for rows in (slice(0, 4), slice(4, 8))]
        for key, value in whole.items():
            np.testing.assert_array_equal(value, np.concatenate([half[key] for half in halves]))
        assert ((whole["index"] >= 0) == (whole["mask"] > 0)).all()
        real = whole["index"][whole["mask"] > 0]
        np.testing.assert_array_equal(whole["label"][whole["mask"] > 0], split.references[real])
        seen += real.tolist()
    assert sorted(seen) == list(range(20))


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ('{"text": " ", "label": "a"}', "there is nothing in 'text'"),
        ('{"text": "no label", "label": ""}', "there is nothing in 'label'"),
        ('{"text": null, "label": "a"}', "there is nothing in 'text'"),
        ('{"text": 3, "label": "a"}', "what is in 'text' must be text"),
        ('{"text": "x", "label": 0.5}', "the label must be a word or a whole number, not 0.5"),
        ('{"text": "x", "label": null}', "there is nothing in 'label'"),
        ('{"text": "x", "label": "c"}', "the label 'c' is not one of those in "),
        ('{"text": "x"', "no JSON"),
    ],
)
def test_a_bad_record_is_named_or_skipped(tmp_path, row, problem):
    train = write(tmp_path / "train.jsonl", [("good", "a"), ("bad", "b")])
    file = tmp_path / "dev.jsonl"
    file.write_text('{"text": "fine", "label": "a"}\n' + row + "\n")
    with pytest.raises(UserError) as told:
        text_table(train, str(file), vocab_size=90)
    assert str(told.value).startswith(f"{str(file)!r} line 2: {problem}"), told.value
    data = text_table(train, str(file), vocab_size=90, on_error="skip")
    assert len(data.splits["validation"]) == 1
    (note,) = data.notes
    assert note.startswith("skipped 1 bad record: ") and problem in note
    file.write_text(row + "\n")
    with pytest.raises(UserError) as told:
        text_table(train, str(file), vocab_size=90, on_error="skip")
    assert "has no records that can be used (skipped 1 bad record: " in str(told.value) and problem in str(told.value)


def test_an_unknown_label_is_told_with_the_known_ones(tmp_path):
    train = write(tmp_path / "train.tsv", [(f"text {i}", i) for i in range(12)])
    for count, known in ((12, "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..."), (3, "0, 1, 2")):
        write(tmp_path / "train.tsv", [(f"text {i}", i) for i in range(count)])
        test = write(tmp_path / "test.tsv", [("fine", 1), ("bad", 12)])
        with pytest.raises(
            UserError, match=re.escape(f"line 3: the label '12' is not one of those in {train!r}: {known} (")
        ):
            text_table(train, test, vocab_size=90)


@pytest.mark.parametrize(
    ("content", "options", "sentence"),
    [
        (b"", {}, "is empty"),
        (b"text\tlabel\n", {}, "has no records that can be used"),
        (b"text\tlabel\nb\xffd\t1\n", {}, r"line 2: not UTF-8 at byte 1"),
        (
            b"text\tlabel\na\t1\n",
            {"text_column": "txt"},
            r"has no column 'txt' in its first line; did you mean 'text'\?",
        ),
        (b"text\tlabel\na\t1\n", {"pair_column": "b"}, "has no column 'b'"),
        (b"text\tlabel\na\t1\n", {"label_column": "labels"}, r"no column 'labels'.*did you mean 'label'\?"),
        (b"text\tlabel\na\t1\nb\t1\n", {"holdout": 0.5}, "All labels are '1': to classify takes two classes"),
        (b"text\tlabel\na\t1\nb\t0\n", {"holdout": 0.0}, "holdout must be between 0 and 1, not 0.0"),
        (b"text\tlabel\na\t1\nb\t0\n", {}, r"2 examples are too few to hold out 10% for validation"),
        (b"text\tlabel\na\t1\nb\t0\n", {"holdout": 0.5, "max_length": 2}, "max_length must be more than .* 2 special"),
        (b"text\tlabel\na\t1\nb\t0\n", {"holdout": 0.5, "buckets": 0}, "config.data.buckets must be positive, not 0"),
        (b"text\tlabel\na\t1\nb\t0\n", {"holdout": 0.5, "vocab_size": None}, "vocab_size must be 6 or more"),
        (b"text\tlabel\na\t1\nb\t0\n", {"holdout": 0.5, "tokenizer": "nowhere"}, "leave it out"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, content, options, sentence):
    (tmp_path / "a.tsv").write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        text_table(**{"train": str(tmp_path / "a.tsv"), "vocab_size": 90} | options)


@pytest.mark.skipif(not SHARED.exists(), reason=f"there is no {SHARED}")
def test_little_of_the_batches_of_sst2_is_padding():
    data = text_table(str(SHARED / "train.tsv"), str(SHARED / "dev.tsv"), text_column="sentence", vocab_size=8000)
    split = data.splits["train"]
    assert {name: len(s) for name, s in data.splits.items()} == {"train": 6920, "validation": 872}
    batches = [split.train_batch(0, step, 32, ALL) for step in range(217)]
    waste = 1 - sum(b["lengths"].sum() for b in batches) / sum(b["tokens"].size for b in batches)
    print(f"padding {waste:.1%}")
    assert waste < 0.1


@pytest.fixture(scope="module")
def upstream(tmp_path_factory):
    """glue/sst2 and imdb_reviews as TFDS's own builders write them, from archives of the official layout.

    TFDS unpacks archives by TensorFlow, which is not needed here: the two methods that do, and the download, are
    replaced; what reads the archives' files and writes the records is TFDS's.
    """
    import tensorflow_datasets as tfds

    with tfds.core.registered.skip_registration():  # what TFDS does not know without TensorFlow stays unknown
        from tensorflow_datasets.text.glue import Glue

    root = tmp_path_factory.mktemp("upstream")
    with zipfile.ZipFile(root / "SST-2.zip", "w") as archive:
        lines = [f"a fine film {i} \t1" if i % 2 else f"a dull film {i} \t0" for i in range(8)]
        archive.writestr("SST-2/train.tsv", "\n".join(["sentence\tlabel", *lines, ""]))
        archive.writestr("SST-2/dev.tsv", "sentence\tlabel\na fine film \t1\n")
        archive.writestr("SST-2/test.tsv", "index\tsentence\n0\tuneasy mishmash \n")
    for part, kinds in (("train", ("neg", "pos", "unsup")), ("test", ("neg", "pos"))):
        for kind in kinds:
            for i in range(3):
                file = root / "aclImdb" / part / kind / f"{i}_7.txt"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(f"a {kind} film<br /><br />number {i}")
    with tarfile.open(root / "aclImdb_v1.tar.gz", "w:gz") as archive:
        archive.add(root / "aclImdb", "aclImdb")

    def extracted(manager, url):
        assert url.endswith("/SST-2.zip")
        zipfile.ZipFile(root / "SST-2.zip").extractall(root / "glue")
        return str(root / "glue")

    def members(manager, path):
        with tarfile.open(root / "aclImdb_v1.tar.gz") as archive:
            yield from ((member.name, archive.extractfile(member)) for member in archive if member.isfile())

    with pytest.MonkeyPatch.context() as patch:
        manager = tfds.download.DownloadManager
        patch.setattr(manager, "download_and_extract", extracted)
        patch.setattr(manager, "download", lambda manager, url: url)
        patch.setattr(manager, "iter_archive", members)
        Glue(config="sst2", data_dir=str(root / "tfds")).download_and_prepare(file_format="array_record")
        prepare("imdb_reviews", str(root / "tfds"))
    return str(root / "tfds")


def test_sst2_of_tfds(upstream):
    options = {"dataset": "glue/sst2", "data_dir": upstream, "text_key": "sentence", "vocab_size": 90}
    data = tfds_labelled_text(**options, validation_split="validation")
    assert data.info["class_names"] == ["negative", "positive"]
    expected = [(f"a fine film {i}", "positive") if i % 2 else (f"a dull film {i}", "negative") for i in range(8)]
    assert sorted(decoded(data, "train")) == sorted(expected)
    assert decoded(data, "validation") == [("a fine film", "positive")]
    with pytest.raises(UserError, match=r"The labels of 'test' of 'glue/sst2' are not given \(they are -1\), as those"):
        tfds_labelled_text(**options, test_split="test")
    with pytest.raises(UserError, match=r"no feature 'text' \(config.data.text_key\); there are: .*sentence"):
        tfds_labelled_text(**options | {"text_key": "text"})
    with pytest.raises(UserError, match=r"The feature 'idx' .* \(config.data.pair_key\) is a .*, not a Text"):
        tfds_labelled_text(**options, pair_key="idx")
    with pytest.raises(UserError, match=r"The feature 'idx' .* \(config.data.label_key\) is a .*, not a ClassLabel"):
        tfds_labelled_text(**options, label_key="idx")


def test_imdb_of_tfds(upstream):
    options = {"dataset": "imdb_reviews", "data_dir": upstream, "vocab_size": 90}
    data = tfds_labelled_text(**options, train_split="train[:4]", validation_split="train[4:]", test_split="test")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 4, "validation": 2, "test": 6}
    assert data.info["class_names"] == ["neg", "pos"]
    assert all(label in text for text, label in decoded(data, "train"))
    with pytest.raises(UserError, match="The labels of 'unsupervised' of 'imdb_reviews' are not given"):
        tfds_labelled_text(**options, validation_split="unsupervised")
