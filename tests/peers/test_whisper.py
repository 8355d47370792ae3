"""Whisper in and out, against transformers."""

import numpy as np
import pytest
from helpers import apply
from safetensors.numpy import load_file

from bigjax.inference.generate import generate
from bigjax.inference.sampling import GREEDY
from bigjax.pretrained.load import load_pretrained
from bigjax.pretrained.save import save_pretrained

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from fixtures.make_encoder_decoders import mels, whisper, whisper_greedy, whisper_logits

ODD = [
    {
        "vocab_size": 61,
        "num_mels": 7,
        "source_context": 13,
        "context": 20,
        "d_model": 20,
        "layers": (3, 1),
        "num_heads": 5,
        "d_ff": 17,
    },
    {
        "vocab_size": 90,
        "num_mels": 80,
        "source_context": 50,
        "context": 17,
        "d_model": 48,
        "layers": (1, 2),
        "num_heads": 1,
        "d_ff": 200,
    },
]


@pytest.mark.parametrize("sizes", ODD)
def test_in_and_out(tmp_path, sizes):
    theirs = whisper(**sizes)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_pretrained(tmp_path / "theirs")

    source = mels(sizes["num_mels"], sizes["source_context"])
    tokens = np.random.default_rng(1).integers(0, sizes["vocab_size"], (2, 15), np.int32)
    expected = whisper_logits(theirs, source, tokens)
    assert expected.std() > 0.5
    np.testing.assert_allclose(apply(ours.model, source, tokens), expected, rtol=1e-5, atol=1e-4)

    greedy = whisper_greedy(theirs, source, [2, 3, 4], 12)
    assert generate(ours.model, [[2, 3, 4]] * 2, 12, GREEDY, source=source) == greedy.tolist()
    assert len(np.unique(greedy)) > 3

    save_pretrained(tmp_path / "again", ours.model, ours.config, documents=ours.documents)
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "again"))
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)
        assert before[name].dtype == after[name].dtype

    save_pretrained(tmp_path / "plain", ours.model, ours.config)  # with nothing but our own config
    for name in ("again", "plain"):
        loaded, info = transformers.WhisperForConditionalGeneration.from_pretrained(
            tmp_path / name, output_loading_info=True
        )
        assert not any(info.values()), info
        np.testing.assert_array_equal(whisper_logits(loaded.eval(), source, tokens), expected)


def test_a_whisper_without_its_head_is_loaded_too(tmp_path):
    theirs = whisper(**ODD[0])
    theirs.save_pretrained(tmp_path / "whole")
    theirs.model.save_pretrained(tmp_path / "bare")
    source, tokens = mels(7, 13), np.array([[5, 6, 7]] * 2)
    for name in ("whole", "bare"):
        config = theirs.config.to_dict() | {"architectures": ["WhisperForConditionalGeneration"]}
        transformers.WhisperConfig(**config).save_pretrained(tmp_path / name)
    whole, bare = (apply(load_pretrained(tmp_path / name).model, source, tokens) for name in ("whole", "bare"))
    np.testing.assert_array_equal(whole, bare)
