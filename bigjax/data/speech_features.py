"""Sound as a network sees it: log-mel spectrograms, and the masks that training lays over them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from bigjax.errors import UserError

FLOOR = 1e-8  # about the power that rounding to 16 bits adds: digital silence is not endlessly far from a quiet room

MelScale = Literal["htk", "slaney"]
Normalize = Literal["per_feature", "all_features"]


@dataclass(frozen=True)
class LogMel:
    """Log-mel spectrograms, as `librosa.feature.melspectrogram(center=True, norm=None)` and a natural logarithm.

    A periodic Hann window in the middle of `n_fft` samples; zeros beyond both ends, so that frame t is about sample
    t * hop; the squared magnitude of its spectrum; triangles of height 1, whose corners are equally far apart in mels.

    Attributes:
      sample_rate: of the audio, in Hz.
      window, hop: in milliseconds.
      num_mels: triangles, M.
      n_fft: samples of a transform; None is the next power of two that holds the window.
      f_min, f_max: what the triangles cover, in Hz; None is half of the sample rate.
      mel_scale: "htk", 2595 log10(1 + f / 700); or "slaney", a line up to 1 kHz and a logarithm above.
      normalize: what has zero mean and unit variance over an utterance: "per_feature", each mel, so that neither
        loudness nor the microphone matters; or "all_features", all together, which takes loudness away and leaves the
        spectrum: in single words, the mean of a mel is their vowel.
    """

    sample_rate: int = 16000
    window: float = 25.0
    hop: float = 10.0
    num_mels: int = 80
    n_fft: int | None = None
    f_min: float = 20.0
    f_max: float | None = None
    mel_scale: MelScale = "htk"
    normalize: Normalize = "per_feature"

    def __post_init__(self) -> None:
        for name in ("sample_rate", "num_mels", "window", "hop"):
            if getattr(self, name) <= 0:
                raise UserError(f"config.data.{name} must be positive, not {getattr(self, name)}.")
        if self.hop_samples < 1 or self.window_samples < 2:
            raise UserError(f"config.data.window and hop are less than a sample at {self.sample_rate} Hz.")
        if self.size < self.window_samples or self.size % 2:
            raise UserError(
                f"config.data.n_fft must be even and hold the window's {self.window_samples} samples, not {self.n_fft}."
            )
        if not 0 <= self.f_min < self.highest <= self.sample_rate / 2:
            raise UserError(
                f"config.data.f_min and f_max must rise from 0 to at most half of sample_rate, {self.sample_rate / 2:g}"
                f" Hz; they are {self.f_min:g} and {self.highest:g}."
            )
        if empty := int((self.filters.max(0) == 0).sum()):
            raise UserError(
                f"config.data.num_mels={self.num_mels} leaves {empty} triangles without a frequency between them; "
                "fewer of them or a larger n_fft mend it."
            )

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""
        return round(self.hop * self.sample_rate / 1000)

    @property
    def window_samples(self) -> int:
        """Samples under the window."""
        return round(self.window * self.sample_rate / 1000)

    @property
    def size(self) -> int:
        """Samples of a transform."""
        return self.n_fft or 1 << (self.window_samples - 1).bit_length()

    @property
    def highest(self) -> float:
        """Where the last triangle ends, in Hz."""
        return self.sample_rate / 2 if self.f_max is None else self.f_max

    @cached_property
    def taper(self) -> np.ndarray:
        """The window between zeros, float32 [size]."""
        n = self.window_samples
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)
        before = (self.size - n) // 2
        return np.pad(hann, (before, self.size - n - before)).astype(np.float32)

    @cached_property
    def filters(self) -> np.ndarray:
        """What each frequency counts in each triangle, float32 [size / 2 + 1, M]."""
        ends = to_mels(np.array([self.f_min, self.highest]), self.mel_scale)
        corners = to_hertz(np.linspace(ends[0], ends[1], self.num_mels + 2), self.mel_scale)
        frequencies = np.fft.rfftfreq(self.size, 1 / self.sample_rate)[:, None]
        widths = np.diff(corners)
        up, down = (frequencies - corners[:-2]) / widths[:-1], (corners[2:] - frequencies) / widths[1:]
        return np.maximum(0, np.minimum(up, down)).astype(np.float32)

    def frames(self, samples: int) -> int:
        """How many frames as many samples give."""
        return 1 + samples // self.hop_samples

    def __call__(self, audio: np.ndarray) -> np.ndarray:
        """Audio float32 [n] in -1..1 to float32 [1 + n // hop, M]."""
        padded = np.pad(audio, self.size // 2)
        windows = sliding_window_view(padded, self.size)[:: self.hop_samples][: self.frames(len(audio))]
        power = np.abs(np.fft.rfft(windows * self.taper)) ** 2
        return np.log(np.maximum(power.astype(np.float32) @ self.filters, FLOOR))

    def normalised(self, audio: np.ndarray) -> np.ndarray:
        """The same of audio, with zero mean and unit variance as `normalize` says."""
        features = self(audio)
        axis = 0 if self.normalize == "per_feature" else None
        return (features - features.mean(axis)) / (features.std(axis) + 1e-3)


def to_mels(hertz: np.ndarray, scale: MelScale) -> np.ndarray:
    """Frequencies in Hz as mels."""
    if scale == "htk":
        return 2595 * np.log10(1 + hertz / 700)
    return np.where(hertz < 1000, 3 * hertz / 200, 15 + 27 * np.log(np.maximum(hertz, 1000) / 1000) / np.log(6.4))


def to_hertz(mels: np.ndarray, scale: MelScale) -> np.ndarray:
    """The inverse of `to_mels`."""
    if scale == "htk":
        return 700 * (10 ** (mels / 2595) - 1)
    return np.where(mels < 15, 200 * mels / 3, 1000 * 6.4 ** ((mels - 15) / 27))


@dataclass(frozen=True)
class SpecAugment:
    """Masks over frequencies and times (Park et al. 2019); what is masked becomes 0, the mean.

    Attributes:
      frequency_masks: how many.
      frequency_width: each masks from 0 to as many mels.
      time_masks: how many.
      time_width: each masks from 0 to as many frames,
      time_share: but at most this share of the utterance.
    """

    frequency_masks: int = 0
    frequency_width: int = 27
    time_masks: int = 0
    time_width: int = 100
    time_share: float = 1.0

    def __post_init__(self) -> None:
        for name in ("frequency_masks", "frequency_width", "time_masks", "time_width"):
            if getattr(self, name) < 0:
                raise UserError(f"config.data.{name} must be 0 or more, not {getattr(self, name)}.")
        if not 0 <= self.time_share <= 1:
            raise UserError(f"config.data.time_share must be from 0 to 1, not {self.time_share}.")

    def draw(self, rng: np.random.Generator, batch_size: int) -> np.ndarray:
        """Where the masks of each row lie, [batch_size, masks, 2] in 0..1: how wide, and how far on."""
        return rng.random((batch_size, self.frequency_masks + self.time_masks, 2))

    def mask(self, features: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """Features [T, M] under the masks drawn for their row, [masks, 2]."""
        features = features.copy()
        frames, mels = features.shape
        longest = min(self.time_width, int(self.time_share * frames))
        for number, (width, place) in enumerate(drawn):
            if number < self.frequency_masks:
                features[:, mask(mels, min(self.frequency_width, mels), width, place)] = 0
            else:
                features[mask(frames, longest, width, place)] = 0
        return features


def mask(length: int, widest: int, width: float, place: float) -> slice:
    """A part of `length`, from 0 to `widest` wide, anywhere; `width` and `place` are in 0..1."""
    size = int(width * (widest + 1))
    start = int(place * (length - size + 1))
    return slice(start, start + size)
