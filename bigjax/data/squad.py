"""Extractive question answering: SQuAD (Rajpurkar et al. 2016, 2018), and questions of the user's own."""

from collections.abc import Mapping

from bigjax.data.dataset import Dataset
from bigjax.data.prepare import prepared_builder
from bigjax.data.questions import Question, checked, read_questions
from bigjax.data.records import BadRecords, OnError
from bigjax.data.subwords import subword_tokenizer
from bigjax.data.tfds import named, text_records
from bigjax.data.windows import Windows, WindowSplit, make_layout
from bigjax.errors import UserError

FEATURES = ("id", "question", "context", "answers")  # of TFDS; version 2.0 has is_impossible, too


def squad(
    train: str,
    validation: str | None = None,
    test: str | None = None,
    tokenizer: str = "wordpiece",
    vocab_size: int | None = None,
    max_length: int = 384,
    stride: int = 128,
    max_query_length: int = 64,
    buckets: int = 8,
    on_error: OnError = "stop",
) -> Dataset:
    """Questions from SQuAD's files, or from a .jsonl, .tsv or .csv: see `read_questions`.

    A row is [CLS] question [SEP] window over the passage [SEP]; a passage that is too long for one has several, which
    overlap (Devlin et al. 2019).

    Args:
      train, validation, test: files, or parts of them such as "train.json[:-10]", all but the last ten articles.
      tokenizer: "wordpiece" or "bpe", which learn `vocab_size` tokens, or a checkpoint's tokenizer.json or folder.
      max_length: tokens of a row.
      stride: tokens from where one window begins to where the next does.
      max_query_length: tokens of a question; what is longer is cut.
      buckets: how many widths batches have at most.

    Raises:
      UserError: a file cannot be read, a record is bad (see `BadRecords`), or sizes do not fit each other.
    """
    bad = BadRecords(on_error)
    paths = {"train": train, "validation": validation, "test": test}
    questions = {name: read_questions(path, name, bad) for name, path in paths.items() if path is not None}
    sizes = {"max_length": max_length, "stride": stride, "max_query_length": max_query_length}
    return question_dataset(questions, tokenizer, vocab_size, sizes, buckets, bad)


def tfds_squad(
    dataset: str = "squad/v1.1",
    train_split: str = "train",
    validation_split: str | None = "validation",
    test_split: str | None = None,
    data_dir: str | None = None,
    tokenizer: str = "wordpiece",
    vocab_size: int | None = None,
    max_length: int = 384,
    stride: int = 128,
    max_query_length: int = 64,
    buckets: int = 8,
    on_error: OnError = "stop",
) -> Dataset:
    """SQuAD as TensorFlow Datasets has it, "squad/v1.1" or "squad/v2.0"; the other keys are those of `squad`.

    Args:
      dataset: a TFDS name, `name[/config][:version]`.
      data_dir: where TFDS keeps its data; None is its own default, ~/tensorflow_datasets or TFDS_DATA_DIR.

    Raises:
      UserError: an unknown or unprepared data set, an unknown split, or what `squad` refuses.
    """
    bad, builder = BadRecords(on_error), prepared_builder(dataset, data_dir)
    known = builder.info.features
    if missing := [key for key in FEATURES if key not in known]:
        raise UserError(f"{builder.info.full_name} (config.data.dataset) is not like SQuAD: it has no {missing[0]!r}.")
    features = [*FEATURES, *(("is_impossible",) if "is_impossible" in known else ())]
    questions: dict[str, list[Question]] = {}
    for name, split in named(train_split, validation_split, test_split).items():
        questions[name] = [
            question
            for _, values in text_records(builder, dataset, name, split, features, bad)
            for question in checked(
                f"Question {values['id']!r} of {split!r} of {dataset!r}", {"is_impossible": False} | values, bad
            )
        ]
    sizes = {"max_length": max_length, "stride": stride, "max_query_length": max_query_length}
    return question_dataset(questions, tokenizer, vocab_size, sizes, buckets, bad)


def question_dataset(
    questions: Mapping[str, list[Question]],
    tokenizer: str,
    vocab_size: int | None,
    sizes: Mapping[str, int],
    buckets: int,
    bad: BadRecords,
) -> Dataset:
    """A data set from the questions of each split."""
    if buckets < 1:
        raise UserError(f"config.data.buckets must be positive, not {buckets}.")
    for name, some in questions.items():
        if not some:
            raise UserError(f"The {name} split is empty: there is no question in its part of the data{bad.reason}.")
    texts = dict.fromkeys(text for q in questions["train"] for text in (q.passage, q.text))
    coder = subword_tokenizer(tokenizer, vocab_size, texts)
    layout = make_layout(coder, **sizes)
    unanswerable = any(not q.answers for some in questions.values() for q in some)
    splits = {
        name: WindowSplit(Windows(some, coder, layout, unanswerable), buckets) for name, some in questions.items()
    }
    info = {
        "vocab_size": coder.get_vocab_size(),
        "context": -(-layout.max_length // 8) * 8,  # as wide as the widest bucket may be
        "num_types": max(layout.types) + 1,
        "unanswerable": unanswerable,
    }
    return Dataset(splits, info, {"tokenizer.json": coder.to_str()}, bad.notes)
