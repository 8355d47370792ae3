"""Batches of utterances with their transcripts: read, turned into features and masked when a batch needs them."""

import functools
import hashlib
import inspect
import os
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bigjax.data.audio import audio_header, read_audio, resample, resampled_length, threads
from bigjax.data.buckets import Buckets
from bigjax.data.dataset import Batch, Dataset, Examples, random
from bigjax.data.fingerprint import files_sha256
from bigjax.data.labels import Kind, Labels, make_labels
from bigjax.data.records import BadRecords, OnError
from bigjax.data.speech_features import LogMel, SpecAugment
from bigjax.errors import UserError

MULTIPLE = 4  # of which the frames of a batch are one


class Utterance(NamedTuple):
    """One recording."""

    where: str  # file and line, for errors
    path: str
    text: str


@dataclass(frozen=True)
class SpeechOptions(LogMel, SpecAugment):
    """The keys that `config.data` takes for every source of speech, beside the source's own.

    Those of `LogMel` (audio of another sample rate is resampled), of `SpecAugment`, and these:

    Attributes:
      subsampling: frames for each position of the model's output, which are as many as CTC can place labels on.
      speeds: an epoch of training has each utterance at each of these speeds (Ko et al. 2015: 0.9, 1.0, 1.1).
      tokenizer: "characters", those of the training transcripts; or "bpe", which learns `vocab_size` tokens.
      buckets: widths that batches are padded to, at most; each is compiled once.
      check: reads every file at the start, so that a damaged or silent one is found before the first step; without,
        headers alone are read, and such a file stops the run when its turn comes.
      on_error: what becomes of bad records: "stop" or "skip".
    """

    subsampling: int = 4
    speeds: tuple[float, ...] = (1.0,)
    tokenizer: Kind = "characters"
    vocab_size: int | None = None
    buckets: int = 8
    check: bool = True
    on_error: OnError = "stop"

    def __post_init__(self) -> None:
        LogMel.__post_init__(self)
        SpecAugment.__post_init__(self)
        if self.subsampling < 1:
            raise UserError(f"config.data.subsampling must be positive, not {self.subsampling}.")
        if self.buckets < 1:
            raise UserError(f"config.data.buckets must be positive, not {self.buckets}.")
        if not self.speeds or not all(0.5 <= speed <= 2 for speed in self.speeds):
            raise UserError(f"config.data.speeds must be numbers from 0.5 to 2, not {self.speeds}.")


def part(kind: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """A dataclass made of those of `options` that are its fields; a run's `config.data` will do, too."""
    return kind(**{f.name: options[f.name] for f in fields(typing.cast(Any, kind))})


Find = Callable[..., Mapping[str, list[Utterance]]]  # also told `bad`, a BadRecords


def speech_source(find: Find) -> Callable[..., Dataset]:
    """The data source whose keys are those of `find`, which lists the utterances of each split, and `SpeechOptions`."""
    own = [p for p in inspect.signature(find).parameters.values() if p.name != "bad"]
    shared = inspect.signature(SpeechOptions).parameters

    @functools.wraps(find)
    def source(**keys: Any) -> Dataset:
        options = SpeechOptions(**{key: keys.pop(key) for key in shared & keys.keys()})
        bad = BadRecords(options.on_error)
        return speech_dataset(find(**keys, bad=bad), options, bad, repr(keys[own[0].name]))

    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in (*own, *shared.values())]
    source.__signature__ = inspect.Signature(parameters, return_annotation=Dataset)  # type: ignore[attr-defined]
    source.__annotations__ = typing.get_type_hints(find) | typing.get_type_hints(SpeechOptions) | {"return": Dataset}
    return source


class Transcripts(NamedTuple):
    """What a task scores against: each example's text, and how labels become one."""

    texts: Sequence[str]
    decode: Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class SpeechSplit(Examples):
    """One split of utterances: `features` float32 [B, T, M], normalised and 0 beyond `lengths` int32 [B]; `labels`
    int32 [B, L], 0 beyond `label_lengths` int32 [B]; `mask` float32 [B]; and `index` int32 [B], -1 where it is 0.

    Attributes:
      utterances: N.
      labels: int32 [l] of each.
      most_labels: L, of all splits, so that evaluating any of them is one program for each width.
      training: buckets of the frames at each speed; N x S, the speeds of an utterance one after the other.
      evaluation: buckets of the frames, N.
      sample_rate: of the audio, in Hz.
      pool: reads files.
    """

    utterances: Sequence[Utterance]
    labels: Sequence[np.ndarray]
    most_labels: int
    training: Buckets
    evaluation: Buckets
    sample_rate: int
    log_mel: LogMel
    augment: SpecAugment
    speeds: tuple[float, ...]
    pool: ThreadPoolExecutor
    content: str
    references: Transcripts  # last, as the base class has a default for it

    def __len__(self) -> int:
        return len(self.utterances)

    def steps_per_epoch(self, batch_size: int) -> float:
        return len(self) * len(self.speeds) / batch_size

    def train_examples(self, seed: int, step: int, batch_size: int) -> np.ndarray:
        return self.training.train(seed, step, batch_size)[0] // len(self.speeds)

    def train_batch(self, seed: int, step: int, batch_size: int, rows: slice) -> Batch:
        played, width = self.training.train(seed, step, batch_size)
        examples, speeds = np.divmod(played[rows], len(self.speeds))
        # Drawn for the whole batch, so that a row's numbers do not depend on which process has it.
        masks = self.augment.draw(random(seed, "augment", step), batch_size)[rows]

        def features(row: int) -> np.ndarray:
            speed = self.speeds[speeds[row]]
            audio = resample(self.audio(examples[row]), self.sample_rate * speed, self.sample_rate)
            return self.augment.mask(self.log_mel.normalised(audio), masks[row])

        return self.batch(examples, np.ones(len(examples), np.float32), width, features)

    def eval_batch(self, index: int, batch_size: int, rows: slice) -> Batch:
        examples, mask, width = self.evaluation.evaluation(index, batch_size, rows)
        return self.batch(examples, mask, width, lambda row: self.log_mel.normalised(self.audio(examples[row])))

    def audio(self, example: int) -> np.ndarray:
        """Float32 [n]; raises UserError where the file is not what it was, or was not checked."""
        utterance = self.utterances[example]
        try:
            return read_audio(utterance.path, self.sample_rate)
        except ValueError as error:
            raise UserError(f"{utterance.where}: {error}.") from error

    def batch(self, examples: np.ndarray, mask: np.ndarray, width: int, features: Callable[[int], np.ndarray]) -> Batch:
        """Examples int64 [b], whose features come row by row, padded to `width` frames."""
        frames = list(self.pool.map(features, range(len(examples))))
        labels = [self.labels[example] for example in examples]
        return {
            "features": padded(frames, width),
            "lengths": np.array([len(row) for row in frames], np.int32),
            "labels": padded(labels, self.most_labels),
            "label_lengths": np.array([len(row) for row in labels], np.int32),
            "mask": mask,
            "index": np.where(mask > 0, examples, -1).astype(np.int32),
        }

    def fingerprint(self) -> str:
        return self.content


def padded(rows: Sequence[np.ndarray], length: int) -> np.ndarray:
    """Arrays [t, ...] as one, [B, length, ...], with zeros behind them."""
    out = np.zeros((len(rows), length, *rows[0].shape[1:]), rows[0].dtype)
    for row, array in zip(out, rows, strict=True):
        row[: len(array)] = array
    return out


def speech_dataset(found: Mapping[str, list[Utterance]], options: SpeechOptions, bad: BadRecords, what: str) -> Dataset:
    """A data set from the utterances of each split.

    Args:
      what: names the data set in errors.

    Raises:
      UserError: a split is empty, or `bad` stops at a record: audio that cannot be read or is
        silent, a transcript that is empty, has a character that training lacks, or is too long for its audio.
    """
    log_mel, augment = part(LogMel, vars(options)), part(SpecAugment, vars(options))
    rate = options.sample_rate
    pool = ThreadPoolExecutor(threads(), thread_name_prefix="audio")
    look = functools.partial(header_or_problem, sample_rate=rate if options.check else None)
    headers = {name: usable(some, pool.map(look, some), bad) for name, some in found.items()}
    if not headers.get("train"):
        raise UserError(f"The train split of {what} is empty{bad.reason}.")
    coder = make_labels(options.tokenizer, options.vocab_size, [u.text for u in headers["train"]])
    speeds = {name: options.speeds if name == "train" else (1.0,) for name in headers}
    labels: dict[str, dict[Utterance, np.ndarray]] = {}
    lengths: dict[str, np.ndarray] = {}  # in frames, [N, 1 + S], first as it was spoken
    for name, kept in headers.items():
        frames = {
            u: [log_mel.frames(played_length(samples, theirs, rate, speed)) for speed in (1.0, *speeds[name])]
            for u, (samples, theirs) in kept.items()
        }
        positions = [-(-min(some) // options.subsampling) for some in frames.values()]
        labels[name] = usable(kept, map(functools.partial(labels_or_problem, coder), kept, positions), bad)
        if not labels[name]:
            raise UserError(f"The {name} split of {what} is empty{bad.reason}.")
        lengths[name] = np.array([frames[utterance] for utterance in labels[name]])
    among = np.concatenate([some.ravel() for some in lengths.values()])
    most_labels = max(len(row) for some in labels.values() for row in some.values())
    bucket = functools.partial(Buckets, count=options.buckets, multiple=MULTIPLE, among=among)
    splits = {
        name: SpeechSplit(
            utterances=tuple(some),
            labels=tuple(some.values()),
            most_labels=most_labels,
            training=bucket(lengths[name][:, 1:].ravel()),
            evaluation=bucket(lengths[name][:, 0]),
            references=Transcripts([utterance.text for utterance in some], coder.decode),
            sample_rate=rate,
            log_mel=log_mel,
            augment=augment,
            speeds=speeds[name],
            pool=pool,
            content=content(some),
        )
        for name, some in labels.items()
    }
    info: dict[str, Any] = {"vocab_size": len(coder), "num_mels": options.num_mels, "subsampling": options.subsampling}
    info |= {"decode": coder.decode, **coder.info}
    notes = [note for note in (resampling(headers, rate),) if note]
    return Dataset(splits, info, coder.files, (*notes, *bad.notes))


def played_length(samples: int, rate: int, wanted: int, speed: float) -> int:
    """Samples at the rate `wanted` of a recording, played at a speed; two steps, for so it is resampled."""
    return resampled_length(resampled_length(samples, rate, wanted), wanted * speed, wanted)


def header_or_problem(utterance: Utterance, sample_rate: int | None) -> tuple[int, int] | str:
    """Samples and sample rate of a recording, all of which is read where `sample_rate` says at what rate."""
    try:
        if sample_rate is not None:
            read_audio(utterance.path, sample_rate)
        return audio_header(utterance.path)
    except ValueError as error:
        return str(error)


def labels_or_problem(coder: Labels, utterance: Utterance, positions: int) -> np.ndarray | str:
    """The labels of a transcript, int32 [l], which must fit into as many positions of the model's output."""
    try:
        labels = np.array(coder.encode(utterance.text), np.int32)
    except ValueError as error:
        return str(error)
    needed = len(labels) + int((labels[1:] == labels[:-1]).sum())  # between two that are the same stands a blank
    if not len(labels):
        return "the transcript is empty"
    if needed > positions:
        return (
            f"the transcript {utterance.text[:40]!r} takes {needed} positions for CTC, but the audio has {positions}; "
            "a smaller config.data.hop or subsampling gives more"
        )
    return labels


def usable(utterances: Iterable[Utterance], found: Iterable[Any], bad: BadRecords) -> dict[Utterance, Any]:
    """What was found of each utterance; where that is a text, it is what is wrong with a bad record."""
    kept = {}
    for utterance, value in zip(utterances, found, strict=True):
        if isinstance(value, str):
            bad.report(utterance.where, value)
        else:
            kept[utterance] = value
    return kept


def resampling(headers: Mapping[str, Mapping[Utterance, tuple[int, int]]], sample_rate: int) -> str:
    """Says which other sample rates there are; empty where there is none."""
    rates = Counter(rate for some in headers.values() for _, rate in some.values())
    others = ", ".join(f"{count:,} of {rate} Hz" for rate, count in sorted(rates.items()) if rate != sample_rate)
    return f"resampling to {sample_rate} Hz: {others}" if others else ""


def content(utterances: Iterable[Utterance]) -> str:
    """A sha256 over the files and transcripts of recordings, in their order, wherever the files lie."""
    paths, texts = zip(*((str(Path(some.path).absolute()), some.text) for some in utterances), strict=True)
    root = os.path.commonpath([str(Path(path).parent) for path in paths])
    files = files_sha256(Path(root), [os.path.relpath(path, root) for path in paths], "fingerprint of recordings")
    return hashlib.sha256("\0".join((files, *texts)).encode()).hexdigest()
