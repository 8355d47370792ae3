"""Log-mel spectrograms against librosa's, and masks that depend on nothing but their address."""

from pathlib import Path

import numpy as np
import pytest
from fixtures.make_speech import CASES

from bigjax.data.speech_features import LogMel, SpecAugment, to_hertz, to_mels
from bigjax.errors import UserError

FIXTURE = dict(np.load(Path(__file__).parents[1] / "fixtures" / "log_mel.npz", allow_pickle=False))


@pytest.mark.parametrize("case", CASES)
def test_equal_to_librosa(case):
    log_mel = LogMel(**CASES[case])
    features = log_mel(FIXTURE["audio"])
    assert features.dtype == np.float32
    assert features.shape == FIXTURE[case].shape == (log_mel.frames(len(FIXTURE["audio"])), log_mel.num_mels)
    np.testing.assert_allclose(features, FIXTURE[case], atol=1e-4)


@pytest.mark.parametrize("scale", ["htk", "slaney"])
def test_1000_hertz_are_1000_mels_by_htk_and_15_by_slaney(scale):
    assert to_mels(np.array(1000.0), scale) == pytest.approx({"htk": 1000, "slaney": 15}[scale], rel=1e-4)
    hertz = np.array([0.0, 20, 700, 999, 1000, 1001, 3000, 8000])
    np.testing.assert_allclose(to_hertz(to_mels(hertz, scale), scale), hertz, atol=1e-9)


def test_a_tone_is_in_the_triangle_around_it():
    log_mel = LogMel(sample_rate=8000, num_mels=20)
    for hertz in (300, 1000, 2500):
        features = log_mel(np.sin(2 * np.pi * hertz * np.arange(4000) / 8000).astype(np.float32))
        corners = to_hertz(np.linspace(*to_mels(np.array([20, 4000]), "htk"), 22), "htk")
        assert np.abs(corners[1:-1] - hertz).argmin() == features[20].argmax()


@pytest.mark.parametrize("length", [1, 79, 80, 81, 1000])
def test_any_length_has_a_frame_for_each_hop(length):
    log_mel = LogMel(sample_rate=8000, num_mels=10)
    features = log_mel.normalised(np.ones(length, np.float32))
    assert features.shape == (1 + length // 80, 10) and np.isfinite(features).all()


@pytest.mark.parametrize(("normalize", "axis"), [("per_feature", 0), ("all_features", None)])
def test_normalised_takes_loudness_away(normalize, axis):
    audio = FIXTURE["audio"][:600]
    log_mel = LogMel(sample_rate=8000, num_mels=13, normalize=normalize)
    raw, features = log_mel(audio), log_mel.normalised(audio)
    np.testing.assert_allclose(features.mean(axis), 0, atol=1e-5)
    np.testing.assert_allclose(features.std(axis), 1, atol=1e-2)
    np.testing.assert_allclose(np.diff(features, axis=0), np.diff(raw, axis=0) / raw.std(axis), rtol=0.02, atol=1e-3)
    np.testing.assert_allclose(log_mel.normalised(2 * audio), features, atol=1e-2)


def test_masks_are_as_wide_as_asked_and_everywhere():
    augment = SpecAugment(frequency_masks=1, frequency_width=4, time_masks=1, time_width=30, time_share=0.5)
    drawn = augment.draw(np.random.default_rng(0), 500)
    assert drawn.shape == (500, 2, 2)
    features = np.ones((20, 10), np.float32)
    masked = np.stack([augment.mask(features, row) for row in drawn]) == 0
    mels, frames = masked.all(1).sum(-1), masked.all(2).sum(-1)
    assert set(mels) == {0, 1, 2, 3, 4} and set(frames) == set(range(11))
    assert masked.all(1).any(0).all() and masked.all(2).any(0).all()  # each mel and each frame is masked sometimes
    assert features.all()  # what came in is as it was
    widths = [augment.mask(features, [(0, 0), (0.999, place)]).all(1) for place in (0, 0.999)]
    assert not widths[0][:10].any() and not widths[1][10:].any()


def test_no_masks_change_nothing():
    features = np.random.default_rng(0).normal(size=(5, 4))
    augment = SpecAugment()
    np.testing.assert_array_equal(augment.mask(features, augment.draw(np.random.default_rng(0), 1)[0]), features)


@pytest.mark.parametrize(
    ("kind", "kwargs", "words"),
    [
        (LogMel, {"hop": 0.0}, "config.data.hop must be positive"),
        (LogMel, {"hop": 0.01}, "less than a sample at 16000 Hz"),
        (LogMel, {"n_fft": 300}, "n_fft must be even and hold the window's 400 samples, not 300"),
        (LogMel, {"n_fft": 501}, "must be even"),
        (LogMel, {"f_max": 9000.0}, "at most half of sample_rate, 8000 Hz; they are 20 and 9000"),
        (LogMel, {"f_min": 8000.0}, "f_min and f_max must rise"),
        (LogMel, {"num_mels": 300}, "triangles without a frequency"),
        (SpecAugment, {"time_masks": -1}, "config.data.time_masks must be 0 or more"),
        (SpecAugment, {"time_share": 1.5}, "config.data.time_share must be from 0 to 1"),
    ],
)
def test_what_cannot_be_is_refused(kind, kwargs, words):
    with pytest.raises(UserError, match=words):
        kind(**kwargs)
