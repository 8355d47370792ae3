"""Log-mel spectrograms against librosa and transformers, live."""

import numpy as np
import pytest

from bigjax.data.speech_features import LogMel, to_hertz, to_mels

pytest.importorskip("librosa")
audio_utils = pytest.importorskip("transformers.audio_utils")

from fixtures.make_speech import CASES, librosa_log_mel, sound

MORE = {
    "16 kHz": {},
    "whisper": {"n_fft": 400, "f_min": 0.0, "mel_scale": "slaney"},
    "short": {"sample_rate": 22050, "window": 12.5, "hop": 5.0, "num_mels": 23, "f_min": 100.0, "f_max": 7000.0},
}


@pytest.mark.parametrize("kwargs", (CASES | MORE).values(), ids=CASES | MORE)
def test_equal_to_librosa_and_transformers(kwargs):
    log_mel = LogMel(**kwargs)
    audio = sound(0.7, log_mel.sample_rate)
    features = log_mel(audio)
    np.testing.assert_allclose(features, librosa_log_mel(audio, **kwargs), atol=1e-4)
    filters = audio_utils.mel_filter_bank(
        num_frequency_bins=log_mel.size // 2 + 1,
        num_mel_filters=log_mel.num_mels,
        min_frequency=log_mel.f_min,
        max_frequency=log_mel.highest,
        sampling_rate=log_mel.sample_rate,
        mel_scale=log_mel.mel_scale,
    )
    np.testing.assert_allclose(log_mel.filters, filters, atol=1e-6)
    theirs = audio_utils.spectrogram(
        audio,
        audio_utils.window_function(log_mel.window_samples, "hann"),
        frame_length=log_mel.window_samples,
        hop_length=log_mel.hop_samples,
        fft_length=log_mel.size,
        power=2.0,
        pad_mode="constant",
        mel_filters=log_mel.filters.astype(np.float64),
        mel_floor=1e-8,
        log_mel="log",
    )
    # transformers pads by half a window, not half a transform: the same frames where the two are as long.
    if log_mel.size == log_mel.window_samples:
        np.testing.assert_allclose(features, theirs.T, atol=1e-4)


@pytest.mark.parametrize("scale", ["htk", "slaney"])
def test_mels_are_those_of_transformers(scale):
    hertz = np.geomspace(1, 12000, 50)
    mels = to_mels(hertz, scale)
    np.testing.assert_allclose(mels, audio_utils.hertz_to_mel(hertz, scale), rtol=1e-6)
    np.testing.assert_allclose(to_hertz(mels, scale), audio_utils.mel_to_hertz(mels, scale), rtol=1e-6)
