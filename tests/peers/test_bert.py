"""BERT against transformers: every head's numbers and gradients, in and out."""

import jax
import numpy as np
import pytest
from flax import nnx
from helpers import apply, parameters

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from fixtures.make_encoders import BERTS, bert_outputs, random_bert, sentences
from safetensors.numpy import load_file

from bigjax.pretrained import FAMILIES
from bigjax.pretrained.load import load_pretrained
from bigjax.pretrained.mapping import Table
from bigjax.pretrained.save import save_pretrained

ODD = [
    {
        "vocab_size": 53,
        "hidden_size": 20,
        "num_hidden_layers": 3,
        "num_attention_heads": 5,
        "intermediate_size": 33,
        "max_position_embeddings": 19,
        "type_vocab_size": 3,
    },
    {
        "vocab_size": 301,
        "hidden_size": 63,
        "num_hidden_layers": 2,
        "num_attention_heads": 7,
        "intermediate_size": 130,
        "max_position_embeddings": 13,
        "layer_norm_eps": 1e-5,
    },
]


@pytest.fixture(params=[(a, i) for a in BERTS for i in range(len(ODD))], ids=lambda p: f"{p[0]}-{p[1]}", scope="module")
def both(request, tmp_path_factory):
    """Their random model, ours from its folder, and the folder."""
    architecture, index = request.param
    folder = tmp_path_factory.mktemp("theirs")
    theirs = random_bert(architecture, **ODD[index])
    theirs.save_pretrained(folder)
    return theirs, load_pretrained(folder), folder


def inputs(theirs):
    return sentences(theirs.config.vocab_size, theirs.config.type_vocab_size)


def test_outputs(both):
    theirs, loaded, _ = both
    tokens, mask, types = inputs(theirs)
    for mask_, types_ in ((mask, types), (mask | True, types), (mask, 0 * types)):
        expected = bert_outputs(theirs, tokens, mask_, types_).detach().numpy()
        actual = apply(loaded.model, tokens, mask_, types_)
        assert expected.std() > 0.1
        print("largest difference", np.abs(actual - expected).max(), "of", np.abs(expected).max())
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-4)
    if type(theirs).__name__ == "BertModel":
        expected = theirs(*(torch.tensor(x).long() for x in (tokens, mask, types))).last_hidden_state.detach().numpy()
        actual = jax.jit(lambda model: model.features(tokens, mask, types))(loaded.model)
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-4)


def test_gradients(both):
    theirs, loaded, _ = both
    tokens, mask, types = inputs(theirs)
    outputs = bert_outputs(theirs, tokens, mask, types)
    weight = np.random.default_rng(1).normal(size=outputs.shape).astype(np.float32)
    if weight.ndim == 3:
        weight *= mask[..., None]
    theirs.zero_grad()
    (outputs * torch.tensor(weight)).sum().backward()
    expected = {name: p.grad.numpy() for name, p in theirs.named_parameters() if p.grad is not None}

    graphdef, params = nnx.split(loaded.model)
    loss = jax.jit(jax.grad(lambda params: (nnx.merge(graphdef, params)(tokens, mask, types) * weight).sum()))
    grads = parameters(nnx.merge(graphdef, loss(params)))
    table = Table(FAMILIES[type(theirs).__name__], loaded.config)
    compared, worst = set(), 0.0
    for name in grads:
        place = table.of_ours(name)
        actual = place.layout.back([grads[one] for one in place.ours])
        assert actual.shape == expected[place.theirs].shape
        # A bias of all keys moves no softmax: what is left there is rounding, and is small beside the kernel's.
        scale = np.abs(expected[place.theirs.replace("key.bias", "key.weight")]).max()
        worst = max(worst, np.abs(actual - expected[place.theirs]).max() / scale)
        compared.add(place.theirs)
    print("largest difference relative to each tensor's largest", worst)
    assert worst < 1e-4
    assert compared == expected.keys()


def test_out_and_in_again(both, tmp_path):
    theirs, loaded, folder = both
    save_pretrained(tmp_path / "ours", loaded.model, loaded.config)  # without their config, so that ours must do
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "ours"))
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(after[name], before[name])
    again, notes = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(notes.values())
    x = inputs(theirs)
    torch.testing.assert_close(bert_outputs(again.eval(), *x), bert_outputs(theirs, *x), rtol=0, atol=0)
