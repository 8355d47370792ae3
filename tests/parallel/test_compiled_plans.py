"""Steps compiled for accelerators that are not here; each test needs its maker's compiler."""

from importlib.util import find_spec

import pytest

from bigjax.parallel.collectives import count_collectives
from bigjax.parallel.plan import plan
from bigjax.parallel.search import search
from bigjax.run import read_config

needs_tpu = pytest.mark.skipif(find_spec("libtpu") is None, reason="needs libtpu")
needs_cuda = pytest.mark.skipif(find_spec("jax_cuda13_plugin") is None, reason="needs jax-cuda13-plugin")
GPT = {"train.batch_size": 32, "model.d_model": 256, "model.num_layers": 3, "model.num_heads": 4}
GPT |= {"train.precision": "bfloat16", "model.scan_layers": True}


@pytest.fixture
def planned(monkeypatch):
    """Plans a config, or a small GPT on a mesh, and keeps the program's text."""
    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5p-8",
    }.items():
        monkeypatch.setenv(name, value)
    texts = []

    def kept(text, mesh):
        texts.append(text)
        return count_collectives(text, mesh)

    monkeypatch.setattr("bigjax.parallel.plan.count_collectives", kept)

    def planned(topology, config=None, **mesh):
        overrides = GPT | {f"mesh.{key}": size for key, size in mesh.items()}
        return plan(config or read_config("experiments/pydoc_gpt.py", overrides), topology), texts.pop()

    return planned


def by_kind(sent, parameters):
    """What was sent, by the collective's first word, in units of all parameters in float32."""
    found = {}
    for name, size in sent.items():
        kind = name.partition(" ")[0]
        found[kind] = found.get(kind, 0) + size / parameters
    return found


@needs_tpu
@pytest.mark.slow
def test_a_tpu_program_gathers_parameters_with_fsdp_and_nothing_without(planned):
    data, _ = planned("v5e:2x4", data=8)
    fsdp, _ = planned("v5e:2x4", data=1, fsdp=8)
    assert data["compiled"] and data["fits"] and 0 < data["mfu"] < 1
    parameters = data["memory"]["parameters"]  # float32; what is sent is bfloat16
    alone, cut = (by_kind(found["sent"]["links"], parameters) for found in (data, fsdp))
    assert 0.5 * 2 * 7 / 8 < alone.pop("all-reduce") < 1.1 * 0.5 * 2 * 7 / 8 and not alone
    assert 0.9 * 7 / 8 < cut.pop("all-gather") < 1.05 * 7 / 8  # for each pass once
    assert 0.4 * 7 / 8 < cut.pop("reduce-scatter") < 1.1 * 0.5 * 7 / 8
    assert sum(cut.values()) < 0.1


@needs_tpu
@pytest.mark.slow
def test_slices_of_tpus_send_each_other_the_gradient_once(planned):
    found, _ = planned("2xv5e:2x2", data=1, fsdp=4, dcn_data=2)
    sent = by_kind(found["sent"]["network"], found["memory"]["parameters"] / 2)
    assert sent.keys() == {"all-reduce"} and 1 <= sent["all-reduce"] < 1.5
    assert "all-gather over fsdp" in found["sent"]["links"] and found["seconds"]["network"] > 0


@needs_tpu
@pytest.mark.slow
def test_a_search_compiles_and_ranks(planned):
    plans = search(read_config("experiments/pydoc_gpt.py", GPT), "v5e:2x2", 2, print)
    assert [found["fits"] for found in plans] == [True, True] and plans[0]["step_seconds"] <= plans[1]["step_seconds"]
    assert all(found["compiled"] for found in plans)


@needs_cuda
@pytest.mark.slow
def test_a_gpu_program_attends_by_cudnn(planned):
    found, text = planned("h200:2x4", data=1, fsdp=4, dcn_data=2)
    assert found["compiled"] and found["fits"] and "__cudnn$fmhaSoftmax" in text
    sent = by_kind(found["sent"]["network"], found["memory"]["parameters"] / 2)
    assert sent.keys() == {"all-reduce"} and 1 <= sent["all-reduce"] < 1.1
    assert found["memory"]["all"] < 2 * 2**30


@needs_cuda
@pytest.mark.slow
@pytest.mark.parametrize("model", ["bert-large", "vit-g14"])
def test_masks_and_odd_lengths_are_for_cudnn_too(model, planned):
    """BERT has a mask of its keys, and a ViT a token more than patches."""
    small = {"model.num_layers": 2, "train.batch_size": 8, "mesh.data": 1, "mesh.fsdp": 2}
    found, text = planned("h200:2", read_config(f"experiments/large.py:{model}", small))
    assert found["fits"] and text.count("__cudnn$fmha") >= 2
