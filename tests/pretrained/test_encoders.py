"""BERT and ViT checkpoints: transformers' numbers (recorded), old names, out again, and what is refused."""

import json
import shutil

import numpy as np
import pytest
from helpers import ROOT, apply
from safetensors.numpy import load_file, save_file
from tokenizers.implementations import BertWordPieceTokenizer

from bigjax.errors import UserError
from bigjax.inference.embed import embed
from bigjax.pretrained.load import load_pretrained
from bigjax.pretrained.save import save_pretrained

ENCODERS = ROOT / "tests/fixtures/encoders"  # by tests/fixtures/make_encoders.py
NAMES = sorted(path.name for path in ENCODERS.iterdir())


def recorded(name):
    """Inputs, and transformers' outputs."""
    with np.load(ENCODERS / name / "expected.npz", allow_pickle=False) as file:
        count = sum(key.startswith("inputs/") for key in file.files)
        return [file[f"inputs/{i}"] for i in range(count)], file["outputs"]


def changed(folder, name, change=dict, **config):
    """A copy of a fixture with other tensors and config."""
    shutil.copytree(ENCODERS / name, folder)
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors")
    whole = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(whole))
    return folder


def check(name, folder):
    inputs, outputs = recorded(name)
    np.testing.assert_allclose(apply(load_pretrained(folder).model, *inputs), outputs, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_those_of_transformers(name):
    check(name, ENCODERS / name)


@pytest.mark.parametrize("name", NAMES)
def test_out_again_to_the_bit(name, tmp_path):
    loaded = load_pretrained(ENCODERS / name)
    save_pretrained(tmp_path, loaded.model, loaded.config)
    before, after = (load_file(path / "model.safetensors") for path in (ENCODERS / name, tmp_path))
    assert before.keys() == after.keys()
    for key in before:
        np.testing.assert_array_equal(after[key], before[key])
    ours, theirs = (json.loads((path / "config.json").read_text()) for path in (tmp_path, ENCODERS / name))
    differing = {key for key in ours.keys() & theirs.keys() if ours[key] != theirs[key]}
    assert differing <= {"attention_probs_dropout_prob"}  # ours has none there
    assert load_pretrained(tmp_path).config == loaded.config


def as_tensorflow_named_it(tensors):
    """Also with what pre-training saved beside the encoder, and positions that count."""
    norms = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = {}
    for name, tensor in tensors.items():
        for new, old in norms.items():
            name = name.replace(new, old)
        renamed[name] = tensor
    return renamed | {
        "bert.embeddings.position_ids": np.arange(16)[None],
        "bert.pooler.dense.weight": np.ones((12, 12), np.float32),
        "bert.pooler.dense.bias": np.ones(12, np.float32),
        "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"],
        "cls.predictions.decoder.bias": tensors["cls.predictions.bias"],
        "cls.seq_relationship.weight": np.ones((2, 12), np.float32),
        "cls.seq_relationship.bias": np.ones(2, np.float32),
    }


def test_old_names_and_what_a_head_does_not_need(tmp_path):
    check("BertForMaskedLM", changed(tmp_path / "old", "BertForMaskedLM", as_tensorflow_named_it))


def test_names_without_their_prefix(tmp_path):
    def bare(tensors):
        return {name.removeprefix("bert."): tensor for name, tensor in tensors.items()}

    check("BertForQuestionAnswering", changed(tmp_path / "bare", "BertForQuestionAnswering", bare))


def test_positions_that_count_in_a_bare_encoder(tmp_path):
    def counting(tensors):
        return tensors | {"embeddings.position_ids": np.arange(16)[None]}

    check("BertModel", changed(tmp_path / "counting", "BertModel", counting))


def test_names_of_classes_survive(tmp_path):
    names = {"id2label": {str(i): f"digit {i}" for i in range(5)}}
    loaded = load_pretrained(changed(tmp_path / "in", "ViTForImageClassification", **names))
    save_pretrained(tmp_path / "out", loaded.model, loaded.config, documents=loaded.documents)
    assert json.loads((tmp_path / "out/config.json").read_text())["id2label"] == names["id2label"]


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("BertModel", {"hidden_act": "gelu_new"}, "hidden_act='gelu_new'"),
        ("BertModel", {"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
        ("BertModel", {"is_decoder": True}, "is_decoder=True"),
        ("BertForMaskedLM", {"tie_word_embeddings": False}, "tie_word_embeddings=False"),
        ("BertForQuestionAnswering", {"num_labels": 3}, "3 labels; answers have two ends"),
        ("BertForSequenceClassification", {"id2label": {"0": "a"}}, r"'head/bias' has \(1,\), not \(5,\)"),
        ("ViTForImageClassification", {"patch_size": [4, 2]}, "bigjax's patches are square"),
        ("ViTForImageClassification", {"patch_size": 5}, "must divide by patch_size=5"),
        ("ViTForImageClassification", {"qkv_bias": False}, "qkv_bias=False"),
        ("ViTForImageClassification", {"architectures": ["ViTModel"]}, "is a checkpoint of ViTModel"),
    ],
)
def test_what_the_models_cannot_do_is_refused(name, config, words, tmp_path):
    with pytest.raises(UserError, match=words):
        load_pretrained(changed(tmp_path / "x", name, **config))


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_too_many_and_one_too_few_are_refused(name, tmp_path):
    few = changed(tmp_path / "few", name, lambda tensors: dict(list(tensors.items())[1:]))
    with pytest.raises(UserError, match="The checkpoint lacks"):
        load_pretrained(few)
    many = changed(tmp_path / "many", name, lambda tensors: tensors | {"extra.weight": np.ones(1, np.float32)})
    with pytest.raises(UserError, match=r"'extra\.weight' has no place"):
        load_pretrained(many)


def test_a_mean_pooled_vit_has_no_architecture_there(tmp_path):
    loaded = load_pretrained(ENCODERS / "ViTForImageClassification")
    with pytest.raises(UserError, match="No Hugging Face architecture"):
        save_pretrained(tmp_path / "out", loaded.model, loaded.config | {"pool": "mean"})


def test_nor_has_a_mean_pooled_bert(tmp_path):
    loaded = load_pretrained(ENCODERS / "BertForSequenceClassification")
    with pytest.raises(UserError, match="No Hugging Face architecture"):
        save_pretrained(tmp_path / "out", loaded.model, loaded.config | {"pool": "mean"})


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz"]


def test_vectors_do_not_depend_on_their_neighbours(tmp_path):
    folder = changed(tmp_path / "words", "BertModel")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    pretrained = load_pretrained(folder)
    sentences = ["a b c", "d", "e f g h i j k l m n o p q r s t u v", "c b a"]  # the third is cut at the context
    vectors = embed(pretrained, sentences, batch_size=2)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-6)
    alone = np.concatenate([embed(pretrained, [sentence], batch_size=1) for sentence in sentences])
    np.testing.assert_allclose(vectors, alone, atol=1e-6)

    tokens = BertWordPieceTokenizer(str(folder / "vocab.txt")).encode("a b c").ids
    features = pretrained.model.features(np.array([tokens], np.int32))[0]
    mean = features.mean(0)
    np.testing.assert_allclose(vectors[0], mean / np.linalg.norm(mean), atol=1e-6)


def test_sentences_need_a_tokenizer():
    with pytest.raises(UserError, match="tokenizer"):
        embed(load_pretrained(ENCODERS / "BertModel"), ["a"])
