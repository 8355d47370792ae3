"""Sources of speech: real layouts, lengths, labels, bad files, and batches that depend on their address alone."""

import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sounds import RATE, manifest, record, spoken, words
from tokenizers import Tokenizer

from bigjax.config import schema
from bigjax.data import SOURCES
from bigjax.data.audio import read_audio, resample
from bigjax.data.labels import labels_of
from bigjax.data.speech_features import LogMel
from bigjax.errors import UserError

FSDD = Path(os.environ.get("BIGJAX_SHARED_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")) / "fsdd.tar"
SMALL = {"sample_rate": RATE, "num_mels": 8, "subsampling": 2}
MASKS = {"frequency_masks": 1, "frequency_width": 3, "time_masks": 1, "time_width": 4}
ALL = slice(None)


def load(source, **keys):
    return SOURCES[source](**(SMALL | keys))


def texts(dataset, split):
    return list(dataset.splits[split].references.texts)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    return {name: manifest(folder, name, words(count)) for name, count in (("train", 30), ("test", 5))}


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype == b[key].dtype
        np.testing.assert_array_equal(a[key], b[key])


def test_a_batch_holds_what_was_said(corpus):
    dataset = load("speech_manifest", **corpus)
    assert texts(dataset, "test") == words(5)
    assert dataset.info["characters"] == ["a", "b", "c"] and dataset.info["vocab_size"] == 4
    assert {key: dataset.info[key] for key in ("num_mels", "subsampling")} == {"num_mels": 8, "subsampling": 2}
    split = dataset.splits["test"]
    batch = split.eval_batch(0, 8, ALL)
    assert {key: (array.dtype.name, array.shape[0]) for key, array in batch.items()} == {
        "features": ("float32", 8),
        "lengths": ("int32", 8),
        "labels": ("int32", 8),
        "label_lengths": ("int32", 8),
        "mask": ("float32", 8),
        "index": ("int32", 8),
    }
    np.testing.assert_array_equal(batch["mask"], [1] * 5 + [0] * 3)
    assert sorted(batch["index"].tolist()) == [-1, -1, -1, 0, 1, 2, 3, 4]
    log_mel = LogMel(RATE, num_mels=8)
    for row in range(5):
        example = batch["index"][row]
        text, length = words(5)[example], batch["lengths"][row]
        labels = batch["labels"][row, : batch["label_lengths"][row]]
        assert dataset.info["decode"](labels.tolist()) == text and not batch["labels"][row, len(labels) :].any()
        audio = np.round(spoken(text, seed=example) * 2**15).clip(-(2**15), 2**15 - 1) / 2**15
        expected = log_mel.normalised(audio.astype(np.float32))
        assert length == len(expected) == 1 + 10 * len(text)
        np.testing.assert_allclose(batch["features"][row, :length], expected, atol=0.05)  # rounded otherwise
        assert not batch["features"][row, length:].any()


@pytest.mark.parametrize("more", [{}, MASKS, {"speeds": (0.9, 1.0, 1.1)}])
def test_batches_depend_on_seed_step_and_row_alone(corpus, more):
    one, other = (load("speech_manifest", **corpus, **more) for _ in range(2))
    for step in (7, 0, 3):
        whole = one.splits["train"].train_batch(1, step, 6, ALL)
        parts = [other.splits["train"].train_batch(1, step, 6, rows) for rows in (slice(0, 4), slice(4, 6))]
        same(whole, {key: np.concatenate([part[key] for part in parts]) for key in whole})
    different = one.splits["train"].train_batch(2, 3, 6, ALL)
    assert different["index"].tolist() != whole["index"].tolist()
    whole = one.splits["test"].eval_batch(0, 6, ALL)
    parts = [other.splits["test"].eval_batch(0, 6, rows) for rows in (slice(0, 3), slice(3, 6))]
    same(whole, {key: np.concatenate([part[key] for part in parts]) for key in whole})
    assert one.fingerprint() == other.fingerprint()


def test_an_epoch_has_each_utterance_at_each_speed(corpus):
    split = load("speech_manifest", **corpus, speeds=(0.8, 1.0, 1.25), holdout=0.2).splits["train"]
    assert len(split) == 24 and split.steps_per_epoch(6) == 12
    batches = [split.train_batch(0, step, 6, ALL) for step in range(64)]
    assert all(batch["lengths"].max() <= batch["features"].shape[1] for batch in batches)
    for example in range(24):
        length = 10 * len(split.references.texts[example]) * RATE // 100
        expected = {1 + round(length / speed) // 80 for speed in (0.8, 1.0, 1.25)}
        assert {n for b in batches for n, i in zip(b["lengths"], b["index"], strict=True) if i == example} == expected
    assert load("speech_manifest", **corpus, speeds=(0.8,)).splits["test"].eval_batch(0, 5, ALL)["lengths"].max() == 21


def test_a_faster_tone_is_higher():
    tone = np.sin(2 * np.pi * 500 * np.arange(RATE) / RATE).astype(np.float32)
    faster = resample(tone, RATE * 1.2, RATE)
    assert len(faster) == round(RATE / 1.2)
    assert np.abs(np.fft.rfft(faster)).argmax() / len(faster) * RATE == pytest.approx(600, abs=2)


def test_masks_cover_what_they_should(corpus):
    plain, masked = (load("speech_manifest", **corpus, **more).splits["train"] for more in ({}, MASKS))
    a, b = (split.train_batch(0, 0, 16, ALL) for split in (plain, masked))
    changed = a["features"] != b["features"]
    assert changed.any() and not b["features"][changed].any()
    np.testing.assert_array_equal(a["index"], b["index"])


@pytest.mark.parametrize(("suffix", "rate", "channels"), [("flac", 16000, 1), ("wav", 22050, 2), ("wav", 8000, 2)])
def test_any_rate_and_channels_become_one(tmp_path, suffix, rate, channels):
    audio = spoken("ab", rate)
    path = tmp_path / f"x.{suffix}"
    sides = np.stack([audio * (1 + 0.5 * c) for c in range(-(channels // 2), channels // 2 + 1) if c or channels == 1])
    soundfile.write(path, sides.T, rate, subtype="PCM_16")
    found = read_audio(str(path), RATE)
    assert found.dtype == np.float32 and found.shape == (2 * RATE // 10,)
    spectrum = np.abs(np.fft.rfft(found[: RATE // 10]))
    assert spectrum.argmax() == 40  # 400 Hz
    np.testing.assert_allclose(np.abs(found).max(), 0.3, atol=0.02)


def test_resampling_is_said_once(tmp_path):
    train = manifest(tmp_path, "train", ["ab"] * 4, rate=16000)
    dataset = load("speech_manifest", train=train, validation=manifest(tmp_path, "v", ["a"]))
    assert dataset.notes == ("resampling to 8000 Hz: 4 of 16000 Hz",)
    assert dataset.splits["train"].train_batch(0, 0, 2, ALL)["lengths"].tolist() == [21, 21]


def test_librispeech(tmp_path):
    for part, count in (("train-clean-100", 2), ("dev-clean", 1), ("test-clean", 1), ("test-other", 1)):
        for speaker in range(count):
            chapter = tmp_path / part / f"{speaker}" / "7"
            for number in range(2):
                record(chapter / f"{speaker}-7-{number:04}.flac", "ab", rate=16000)
            said = [f"{speaker}-7-{number:04} A B\n" for number in range(2)]
            (chapter / f"{speaker}-7.trans.txt").write_text("".join(said))
    dataset = SOURCES["librispeech"](root=str(tmp_path), test=("test-clean", "test-other"), num_mels=20)
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 4, "validation": 2, "test": 4}
    assert texts(dataset, "train") == ["A B"] * 4 and dataset.info["characters"] == [" ", "A", "B"]
    assert dataset.splits["train"].train_batch(0, 0, 2, ALL)["features"].shape == (2, 24, 20)
    assert "test" not in SOURCES["librispeech"](root=str(tmp_path), test=(), num_mels=20).splits
    with pytest.raises(UserError, match=r"config\.data\.validation has 'dev-other'"):
        SOURCES["librispeech"](root=str(tmp_path), validation=("dev-other",))
    with pytest.raises(UserError, match=r"The train split of .* is empty"):
        SOURCES["librispeech"](root=str(tmp_path), train=())


def test_speech_commands(tmp_path):
    for word in ("a", "bc"):
        for number in range(4):
            record(tmp_path / word / f"s_nohash_{number}.wav", word)
    record(tmp_path / "_background_noise_" / "hum.wav", "a")
    (tmp_path / "validation_list.txt").write_text("a/s_nohash_0.wav\n")
    (tmp_path / "testing_list.txt").write_text("a/s_nohash_1.wav\nbc/s_nohash_3.wav\n")
    dataset = load("speech_commands", root=str(tmp_path), subsampling=2)
    assert {name: texts(dataset, name) for name in dataset.splits} == {
        "train": ["a"] * 2 + ["bc"] * 3,
        "validation": ["a"],
        "test": ["a", "bc"],
    }
    (tmp_path / "testing_list.txt").unlink()
    with pytest.raises(UserError, match=r"There is no '.*testing_list\.txt'"):
        load("speech_commands", root=str(tmp_path))


def test_fsdd(tmp_path):
    for speaker in ("jane", "joe"):
        for digit in (0, 1):
            for index in (0, 4, 5, 9, 10, 11):
                record(tmp_path / f"{digit}_{speaker}_{index}.wav", "abcabc")
    dataset = load("fsdd", root=str(tmp_path))
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 8, "validation": 8, "test": 8}
    dataset = load("fsdd", root=str(tmp_path), held_out_speaker="joe")
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 8, "validation": 4, "test": 12}
    assert set(texts(dataset, "test")) == {"zero", "one"}
    assert all("joe" in u.path for u in dataset.splits["test"].utterances)
    assert not any("joe" in u.path for name in ("train", "validation") for u in dataset.splits[name].utterances)
    with pytest.raises(UserError, match=r"There is no speaker 'jo' .* there are jane, joe"):
        load("fsdd", root=str(tmp_path), held_out_speaker="jo")
    dataset = load("fsdd", root=str(tmp_path), holdout=0)
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 16, "test": 8}
    with pytest.raises(UserError, match="holdout must not be negative"):
        load("fsdd", root=str(tmp_path), holdout=-1)


def test_bpe_labels(tmp_path, corpus):
    dataset = load("speech_manifest", **corpus, tokenizer="bpe", vocab_size=264)
    assert dataset.info["vocab_size"] == 264 and "characters" not in dataset.info and "tokenizer.json" in dataset.files
    again = labels_of(dataset.info, Tokenizer.from_str(dataset.files["tokenizer.json"]))
    batch = dataset.splits["test"].eval_batch(0, 5, ALL)
    for row, example in enumerate(batch["index"]):
        labels = batch["labels"][row, : batch["label_lengths"][row]]
        assert labels.all()
        assert again.decode(labels) == dataset.info["decode"](labels.tolist()) == words(5)[example]


def damage(folder):
    """A file of every kind of damage by name, with words of its report."""
    whole = record(folder / "whole.wav", "ab").read_bytes()
    flac = record(folder / "whole.flac", "ab").read_bytes()
    (folder / "cut.wav").write_bytes(whole[: len(whole) // 2])
    (folder / "cut.flac").write_bytes(flac[: len(flac) // 2])
    (folder / "text.wav").write_text("no sound")
    (folder / "empty.wav").write_bytes(b"")
    soundfile.write(folder / "silent.wav", np.zeros(800), RATE)
    soundfile.write(folder / "nothing.wav", np.zeros(0), RATE)
    soundfile.write(folder / "nan.wav", np.full(800, np.nan), RATE, subtype="FLOAT")
    return {
        "cut.wav": "the file is cut off: its header says 3,244 bytes, and there are 1,622",
        "cut.flac": "cut off|no audio that can be read",
        "text.wav": "no audio that can be read",
        "empty.wav": "the file is empty",
        "silent.wav": "it is silent: every sample is 0",
        "nothing.wav": "there are no samples in it",
        "nan.wav": "samples that are no numbers",
        "missing.wav": "there is no such file",
    }


def test_bad_audio_is_told_or_skipped(tmp_path):
    bad = damage(tmp_path)
    records = [{"audio": "whole.wav", "text": "ab"}] * 3
    for name, problem in bad.items():
        file = tmp_path / "bad.jsonl"
        file.write_text("".join(json.dumps(one) + "\n" for one in [*records, {"audio": name, "text": "a"}]))
        with pytest.raises(UserError, match=rf"bad\.jsonl' line 4 \('{name}'\): .*({problem}).*on_error='skip'"):
            load("speech_manifest", train=str(file))
    rows = [*records, *({"audio": name, "text": "a"} for name in bad), {"audio": "whole.wav", "text": " "}]
    file.write_text("".join(json.dumps(one) + "\n" for one in rows))
    dataset = load("speech_manifest", train=str(file), on_error="skip", validation=str(file))
    assert len(dataset.splits["train"]) == 3
    assert dataset.notes[0].startswith(f"skipped {2 * (len(bad) + 1)} bad records: ")


def test_unchecked_audio_stops_when_its_turn_comes(tmp_path):
    damage(tmp_path)
    file = tmp_path / "x.jsonl"
    rows = [{"audio": "whole.wav", "text": "ab"}] * 3 + [{"audio": "silent.wav", "text": "a"}]
    file.write_text("".join(json.dumps(one) + "\n" for one in rows))
    split = load("speech_manifest", train=str(file), validation=str(file), check=False).splits["validation"]
    with pytest.raises(UserError, match=r"x\.jsonl' line 4 \('silent\.wav'\): it is silent"):
        split.eval_batch(0, 4, ALL)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("abd", "no training transcript has the character 'd' of 'abd'"),
        ("", "there is nothing in 'text'"),
        (7, "what is in 'audio' and 'text' must be text"),
        ("abcabcabc", "takes 9 positions for CTC, but the audio has 6"),
        ("aaaa", "takes 7 positions for CTC, but the audio has 6"),
    ],
)
def test_bad_transcripts_are_told_or_skipped(tmp_path, text, words):
    record(tmp_path / "x.wav", "a")
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    train.write_text("".join(json.dumps({"audio": "x.wav", "text": "abc"}) + "\n" for _ in range(4)))
    test.write_text("".join(json.dumps({"audio": "x.wav", "text": some}) + "\n" for some in ("ab", text)))
    with pytest.raises(UserError, match=rf"test\.jsonl' line 2.*: .*{words}"):
        load("speech_manifest", train=str(train), test=str(test))
    dataset = load("speech_manifest", train=str(train), test=str(test), on_error="skip")
    assert texts(dataset, "test") == ["ab"] and len(dataset.notes) == 1


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"speeds": (3.0,)}, "config.data.speeds must be numbers from 0.5 to 2"),
        ({"subsampling": 0}, "config.data.subsampling must be positive"),
        ({"buckets": 0}, "config.data.buckets must be positive"),
        ({"vocab_size": 300}, "config.data.vocab_size is for 'bpe'"),
        ({"tokenizer": "bpe"}, "config.data.vocab_size must be 261 or more"),
        ({"train": "nowhere.jsonl"}, "There is no file 'nowhere.jsonl'"),
    ],
)
def test_options_that_cannot_be_are_refused(corpus, keys, words):
    with pytest.raises(UserError, match=words):
        load("speech_manifest", **(corpus | keys))


@pytest.mark.parametrize("name", ["fsdd", "librispeech", "speech_commands", "speech_manifest"])
def test_the_keys_of_a_source_are_its_own_and_the_shared_ones(name):
    keys = schema(SOURCES[name])
    assert keys["sample_rate"].default == 16000 and keys["speeds"].annotation == tuple[float, ...]
    assert "bad" not in keys and next(iter(keys)) in ("root", "train")


@pytest.mark.skipif(not FSDD.is_file(), reason="needs the Free Spoken Digit Dataset")
def test_real_digits_are_little_padded(tmp_path):
    with tarfile.open(FSDD) as tar:
        for member in tar.getmembers():  # Python 3.11.2 has no filter="data" yet
            if member.isfile() and member.name.endswith(".wav"):
                (tmp_path / Path(member.name).name).write_bytes(tar.extractfile(member).read())
    dataset = load("fsdd", root=str(tmp_path), buckets=20, speeds=(0.9, 1.0, 1.1))
    sizes = {name: len(split) for name, split in dataset.splits.items()}
    assert sizes == {"train": 2400, "validation": 300, "test": 300}
    batches = [dataset.splits["train"].train_batch(0, step, 32, ALL) for step in range(64)]
    frames = sum(batch["lengths"].sum() for batch in batches)
    assert 1 - frames / sum(batch["features"][:, :, 0].size for batch in batches) < 0.1
