"""GPT-2, Llama 3 and Qwen 3 beside transformers' own, in one run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from flax import nnx
from helpers import made, parameters
from safetensors.numpy import load_file

from bigjax.inference.beam import beam_search
from bigjax.inference.generate import generate
from bigjax.inference.sampling import GREEDY
from bigjax.models.gpt import GPT
from bigjax.pretrained.gpt2 import GPT2
from bigjax.pretrained.load import load_pretrained
from bigjax.pretrained.mapping import Table
from bigjax.pretrained.save import save_pretrained

TEXT = {"vocab_size": 101, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 700.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def gpt2(**options):
    config = transformers.GPT2Config(n_positions=96, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, **options, **TEXT)
    return transformers.GPT2LMHeadModel(config)


def llama(**options):
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(max_position_embeddings=96, **options, **TEXT))


def qwen3(**options):
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(max_position_embeddings=96, **options, **TEXT))


ODD = {"hidden_size": 42, "num_hidden_layers": 3, "intermediate_size": 50, "num_attention_heads": 7}
EVEN = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 96, "num_attention_heads": 8}
MODELS = {
    "gpt2 of odd sizes": lambda: gpt2(n_embd=33, n_layer=3, n_head=3, n_inner=50),
    "gpt2 with another epsilon": lambda: gpt2(n_embd=40, n_layer=2, n_head=5, layer_norm_epsilon=0.1),
    "gpt2 untied": lambda: gpt2(n_embd=24, n_layer=1, n_head=1, tie_word_embeddings=False),
    "llama, all heads the same": lambda: llama(num_key_value_heads=7, rms_norm_eps=0.01, **ODD),
    "llama, one key head, scaled": lambda: llama(num_key_value_heads=1, rope_parameters=LLAMA3, **ODD),
    "llama, tied, linear": lambda: llama(
        num_key_value_heads=4,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0},
        **EVEN,
    ),
    "qwen3, wide heads": lambda: qwen3(num_key_value_heads=1, head_dim=20, **ODD),
    "qwen3, tied": lambda: qwen3(num_key_value_heads=4, head_dim=2, tie_word_embeddings=True, **EVEN),
}
PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10], [11]]


@pytest.fixture(params=MODELS)
def pair(request, tmp_path):
    """Their model with large random weights, and ours from the folder that it wrote."""
    torch.manual_seed(0)
    theirs = MODELS[request.param]().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            noise = torch.randn_like(parameter) / 4
            parameter.copy_(1 + noise if parameter.ndim == 1 else noise)
    theirs.save_pretrained(tmp_path / "theirs")
    return theirs, load_pretrained(tmp_path / "theirs"), tmp_path


def logits(model, tokens):
    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.numpy()


def test_logits_and_files(pair):
    theirs, ours, folder = pair
    tokens = np.random.default_rng(0).integers(0, 101, (3, 57))
    expected = logits(theirs, tokens)
    assert np.abs(expected).max() > 1
    actual = jax.jit(lambda model, tokens: model(tokens)[0])(ours.model, tokens)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-4)
    save_pretrained(folder / "ours", ours.model, ours.config, documents=ours.documents)
    before, after = (load_file(folder / name / "model.safetensors") for name in ("theirs", "ours"))
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])
    save_pretrained(folder / "plain", ours.model, ours.config)  # with a config.json of our own making
    for name in ("ours", "plain"):
        again, report = transformers.AutoModelForCausalLM.from_pretrained(folder / name, output_loading_info=True)
        assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
        np.testing.assert_array_equal(logits(again.eval(), tokens), expected)


@pytest.mark.parametrize("stop", [None, [17], [3, 50]])
def test_greedy_and_beam_search(pair, stop):
    theirs, ours, _ = pair
    longest = max(map(len, PROMPTS))
    tokens = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in PROMPTS])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS])
    for num_beams in (1, 3):
        options = {"max_new_tokens": 64, "num_beams": num_beams, "do_sample": False, "eos_token_id": stop}
        expected = theirs.generate(tokens, attention_mask=mask, pad_token_id=100, **options)[:, longest:].tolist()
        if num_beams == 1:
            found = generate(ours.model, PROMPTS, 64, GREEDY, stop=stop or ())
        else:
            found = beam_search(ours.model, PROMPTS, 64, num_beams, stop=stop or ())
        for row, wanted in zip(found, expected, strict=True):
            assert row == wanted[: len(row)]
            assert set(wanted[len(row) :]) <= {100}  # they fill up with this


def test_gradients_of_gpt2():
    """Of the mean loss by every parameter, within 1e-4 of the largest in its tensor."""
    torch.manual_seed(0)
    theirs = gpt2(n_embd=33, n_layer=3, n_head=3, n_inner=50).train()
    tokens = np.random.default_rng(0).integers(0, 101, (4, 40))
    theirs(torch.tensor(tokens), labels=torch.tensor(tokens)).loss.backward()
    expected = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
    section = {**GPT2.kind, **GPT2.model(theirs.config.to_dict())}
    table = Table(GPT2, section)
    model = made(lambda rngs: GPT(**{k: v for k, v in section.items() if k != "name"}, rngs=rngs))
    weights = {}
    for name, p in theirs.named_parameters():
        place = table.of_theirs(name)
        weights |= dict(zip(place.ours, place.layout.into(p.detach().numpy()), strict=True))
    graphdef, state = nnx.split(model)
    for path, variable in nnx.to_flat_state(state):
        variable.set_value(jnp.asarray(weights["/".join(map(str, path))]))

    @jax.jit
    @jax.grad
    def gradients(model):
        logits = model(tokens)[0][:, :-1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    found = parameters(gradients(nnx.merge(graphdef, state)))
    for name, gradient in expected.items():
        place = table.of_theirs(name)
        actual = place.layout.back([found[one] for one in place.ours])
        assert np.abs(actual - gradient).max() <= 1e-4 * np.abs(gradient).max(), name
