"""Sounds that stand for speech: a tone for each letter, told apart by its pitch."""

import json

import numpy as np
import soundfile

RATE = 8000
LETTERS = "abc"


def spoken(text, rate=RATE, seconds=0.1, seed=0):
    """A text as tones with a little noise, float32 [n]."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(rate * seconds)) / rate
    tones = [np.sin(2 * np.pi * 400 * (1 + LETTERS.index(letter)) * time) * np.hanning(len(time)) for letter in text]
    audio = np.concatenate(tones) * 0.3
    return (audio + rng.normal(0, 0.003, audio.shape)).astype(np.float32)


def record(path, text, rate=RATE, **kwargs):
    """Writes a text as a file of 16 bits, in the format that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, spoken(text, rate, **kwargs), rate, subtype="PCM_16")
    return path


def words(count, seed=0):
    """Texts of one or two letters."""
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list(LETTERS), rng.integers(1, 3))) for _ in range(count)]


def manifest(folder, name, texts, **kwargs):
    """Writes `name`.jsonl and its recordings below `name`; returns its path."""
    file = folder / f"{name}.jsonl"
    with file.open("w") as out:
        for number, text in enumerate(texts):
            path = record(folder / name / f"{number}.wav", text, seed=number, **kwargs)
            out.write(json.dumps({"audio": str(path.relative_to(folder)), "text": text}) + "\n")
    return str(file)
