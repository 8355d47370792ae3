"""Sound files (WAV, FLAC and what else libsndfile reads) to samples at one rate."""

import os
from pathlib import Path

import numpy as np
import soundfile
import soxr

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
UNKNOWN = (0, 0xFFFFFFFF)  # sizes that those write who cannot go back to the header


def audio_header(path: str) -> tuple[int, int]:
    """Samples and sample rate that a file's header says; raises ValueError, with the reason, where it cannot be so."""
    try:
        size = Path(path).stat().st_size
    except OSError as error:
        raise ValueError("there is no such file") from error
    if size == 0:
        raise ValueError("the file is empty")
    try:
        info = soundfile.info(path)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"no audio that can be read ({error.error_string.rstrip('.')})") from error
    if info.format in ("WAV", "WAVEX"):
        with Path(path).open("rb") as file:
            said = int.from_bytes(file.read(8)[4:], "little")
        if said not in UNKNOWN and said + 8 > size:
            raise ValueError(f"the file is cut off: its header says {said + 8:,} bytes, and there are {size:,}")
    if info.frames == 0:
        raise ValueError("there are no samples in it")
    return info.frames, info.samplerate


def read_audio(path: str, sample_rate: int) -> np.ndarray:
    """The mean of a file's channels, in -1..1, resampled where its rate is another.

    Returns:
      float32 [n], where n is `resampled_length` of what the header says.

    Raises:
      ValueError: with the reason, where it cannot be read, is cut off or silent, or holds what is no number.
    """
    length, rate = audio_header(path)
    try:
        channels, _ = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"no audio that can be read ({error.error_string.rstrip('.')})") from error
    if len(channels) < length:
        raise ValueError(f"the file is cut off: its header says {length:,} samples, and there are {len(channels):,}")
    audio = channels.mean(1)
    if not np.isfinite(audio).all():
        raise ValueError("it holds samples that are no numbers")
    if not audio.any():
        raise ValueError("it is silent: every sample is 0")
    return resample(audio, rate, sample_rate)


def resample(audio: np.ndarray, rate: float, wanted: float) -> np.ndarray:
    """Audio float32 [n] of one sample rate at another, by soxr; exactly `resampled_length` samples."""
    if rate == wanted:
        return audio
    length = resampled_length(len(audio), rate, wanted)
    audio = soxr.resample(audio, rate, wanted)
    return np.pad(audio[:length], (0, max(0, length - len(audio))))


def resampled_length(length: int, rate: float, wanted: float) -> int:
    """How many samples a sound of `length` samples has at another rate."""
    return length if rate == wanted else max(1, round(length * wanted / rate))


def threads() -> int:
    """How many files are read at a time: libsndfile, soxr and numpy work without holding the interpreter."""
    return os.cpu_count() or 1
