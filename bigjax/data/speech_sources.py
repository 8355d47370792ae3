"""Where recordings and their transcripts lie: manifests, and the folders of LibriSpeech, Speech Commands and FSDD."""

from pathlib import Path

from bigjax.data.image_folder import hold_out, subfolders
from bigjax.data.records import BadRecords, lines, read_table
from bigjax.data.speech import Utterance, speech_source
from bigjax.errors import UserError

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

Found = dict[str, list[Utterance]]


@speech_source
def speech_manifest(
    train: str, validation: str | None = None, test: str | None = None, holdout: float = 0.1, *, bad: BadRecords
) -> Found:
    """Manifests, .jsonl, .tsv or .csv, of `audio`, a path relative to the manifest, and `text`.

    Without one for validation the share `holdout` of the training utterances is it, always the same ones.

    Raises:
      UserError: a manifest is missing or empty, or see `speech_dataset`.
    """
    paths = {"train": train, "validation": validation, "test": test}
    found = {name: in_manifest(path, name, bad) for name, path in paths.items() if path is not None}
    if validation is None:
        found["train"], found["validation"] = hold_out(found["train"], holdout)
    return found


def in_manifest(path: str, option: str, bad: BadRecords) -> list[Utterance]:
    """The utterances of one manifest."""
    folder, found = Path(path).expanduser().parent, []
    for where, values in read_table(path, option, ("audio", "text"), bad):
        audio, text = values["audio"], values["text"]
        if isinstance(audio, str) and isinstance(text, str):
            found.append(utterance(f"{where} ({audio!r})", folder / audio, text))
        else:
            bad.report(where, "what is in 'audio' and 'text' must be text")
    return found


def utterance(where: str, path: Path, text: str) -> Utterance:
    """An utterance, with single spaces in its text."""
    return Utterance(where, str(path), " ".join(text.split()))


@speech_source
def librispeech(
    root: str,
    train: tuple[str, ...] = ("train-clean-100",),
    validation: tuple[str, ...] = ("dev-clean",),
    test: tuple[str, ...] = ("test-clean",),
    *,
    bad: BadRecords,
) -> Found:
    """LibriSpeech as its archives unpack: `root/<part>/<speaker>/<chapter>/*.flac` and `*.trans.txt`.

    Args:
      train, validation, test: which parts make each split; a split of none is left out.

    Raises:
      UserError: a part is missing, or see `speech_dataset`.
    """
    folder = Path(root).expanduser()
    found: Found = {}
    for name, parts in (("train", train), ("validation", validation), ("test", test)):
        for part in parts:
            transcripts = sorted((folder / part).glob("*/*/*.trans.txt"))
            if not transcripts:
                raise UserError(
                    f"There is no {str(folder / part / '<speaker>/<chapter>/*.trans.txt')!r} (config.data.root is "
                    f"{root!r}, and config.data.{name} has {part!r})."
                )
            found.setdefault(name, []).extend(one for file in transcripts for one in in_transcript(file, bad))
    return found


def in_transcript(file: Path, bad: BadRecords) -> list[Utterance]:
    """The utterances of one chapter."""
    found = []
    for number, line in lines(str(file), bad):
        name, _, text = line.strip().partition(" ")
        if name:
            found.append(utterance(f"{str(file)!r} line {number}", file.parent / f"{name}.flac", text))
    return found


@speech_source
def speech_commands(root: str, *, bad: BadRecords) -> Found:
    """Google's Speech Commands: `root/<word>/*.wav`, split by `validation_list.txt` and `testing_list.txt` in it.

    The word is the transcript; folders that begin with an underscore are no words.

    Raises:
      UserError: a folder or list is missing, or see `speech_dataset`.
    """
    folder = existing(root)
    where: dict[str, str] = {}
    for name, file in (("validation", "validation_list.txt"), ("test", "testing_list.txt")):
        if not (folder / file).is_file():
            raise UserError(f"There is no {str(folder / file)!r} (config.data.root is {root!r}).")
        where |= {line.strip(): name for _, line in lines(str(folder / file), bad)}
    found: Found = {"train": [], "validation": [], "test": []}
    for word in subfolders(folder):
        for path in sorted((folder / word).glob("*.wav")) if not word.startswith("_") else ():
            found[where.get(f"{word}/{path.name}", "train")].append(utterance(repr(str(path)), path, word))
    return found


@speech_source
def fsdd(root: str, held_out_speaker: str | None = None, holdout: int = 5, *, bad: BadRecords) -> Found:
    """The Free Spoken Digit Dataset: `root/<digit>_<speaker>_<index>.wav`; the digit's name is the transcript.

    Indices 0 to 4 are the official test split.

    Args:
      held_out_speaker: the test split is all of this speaker instead, who is in no other.
      holdout: how many of the others, from index 5 on, are for validation; with 0 all are for training.

    Raises:
      UserError: the folder or the speaker is missing, or see `speech_dataset`.
    """
    if holdout < 0:
        raise UserError(f"config.data.holdout must not be negative, but is {holdout}.")
    found: Found = {"train": [], "validation": [], "test": []} if holdout else {"train": [], "test": []}
    speakers = set()
    for path in sorted(existing(root).glob("*.wav")):
        digit, _, rest = path.stem.partition("_")
        speaker, _, index = rest.rpartition("_")
        if not (digit in set("0123456789") and speaker and index.isdecimal()):
            bad.report(repr(str(path)), "the name is not <digit>_<speaker>_<index>.wav")
            continue
        speakers.add(speaker)
        tested = int(index) < 5 if held_out_speaker is None else speaker == held_out_speaker
        name = "test" if tested else "validation" if 5 <= int(index) < 5 + holdout else "train"
        found[name].append(utterance(repr(str(path)), path, DIGITS[int(digit)]))
    if held_out_speaker is not None and held_out_speaker not in speakers:
        raise UserError(
            f"There is no speaker {held_out_speaker!r} in {root!r} (config.data.held_out_speaker); there are "
            f"{', '.join(sorted(speakers))}."
        )
    return found


def existing(root: str) -> Path:
    """The folder of `config.data.root`."""
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise UserError(f"There is no folder {root!r} (config.data.root).")
    return folder
