"""Configs: overrides and defaults applied, every misspelt key and wrong type refused by name."""

import json
import re
from pathlib import Path
from typing import Any, Literal

import pytest
from helpers import ROOT
from ml_collections import ConfigDict

from bigjax.config import (
    SECTIONS,
    Parameter,
    checked,
    differences,
    experiment_config,
    load_experiment,
    parse_value,
    schema,
)
from bigjax.errors import UserError, nearest
from bigjax.models.presets import PRESETS
from bigjax.training.setup import resolve

EXPERIMENTS = sorted((ROOT / "experiments").glob("*.py"))
BERT = f"{ROOT}/tests/fixtures/encoders/BertModel"
IMAGENET = ("alexnet", "vgg16", "resnet18", "resnet50", "vit-s16", "cnn")
NEEDED = {  # arguments without which there is no config
    "finetune_text": (f"{ROOT}/tests/fixtures/decoders/gpt2",),
    "squad_bert": (BERT, f"tfds:{BERT}"),
    "sst2_minilm": (BERT,),
    "xquad_minilm": (BERT,),
}
NAMED = {
    "bert_pretraining": ("bert-base",),
    "cifar10_cnn": ("tfds",),
    "cifar10_quick": ("tfds",),
    "cifar10_resnet": ("tfds",),
    "imagenet": (*IMAGENET, *(f"{model},folder" for model in IMAGENET)),
    "large": ("gpt3-175b", "llama3-8b", "llama3-70b", "bert-large", "vit-g14", "resnet50"),
    "librispeech_conformer": ("100", "960"),
    "numerals_transformer": ("files",),
    "ptb_lstm": ("awd",),
    "pydoc_gpt": ("llama", "moe"),
    "pydoc_lstm": ("lstm", "gru"),
    "shakespeare_gpt": ("llama", "bpe", "gpu"),
    "speech": ("lstm", "conformer"),
    "sst2_lstm": ("lstm", "transformer", "tfds"),
    "text_gpt": tuple(name for name, model in PRESETS.items() if model["name"] == "gpt"),
    "wmt_transformer": ("files",),
}
ANY = {"fsdd_lstm": ("theo",)}  # whether there is such a speaker only the data know
SPECS = [str(path) for path in EXPERIMENTS if path.stem not in NEEDED] + [
    f"{ROOT}/experiments/{name}.py:{arg}" for name, args in (NEEDED | NAMED | ANY).items() for arg in args
]


def config(**sections):
    base = {
        "seed": 3,
        "model": {"name": "cnn"},
        "task": {"name": "image_classification", "mean": (0.3,)},
        "data": {"name": "digits", "image_size": 28},
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        "train": {"steps": 10},
    }
    return base | sections


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.replace(f"{ROOT}/", ""))
def test_every_experiment_resolves_and_survives_json(spec):
    whole = resolve(experiment_config(spec))
    assert whole["experiment"] == Path(spec.partition(":")[0]).stem
    assert set(whole) == {"experiment", "seed", "reproducible", *SECTIONS}
    assert resolve(json.loads(json.dumps(whole))) == whole


@pytest.mark.parametrize("path", [path for path in EXPERIMENTS if path.stem not in ANY], ids=lambda path: path.stem)
def test_every_experiment_refuses_an_unknown_argument_and_names_the_known(path):
    with pytest.raises(UserError, match="nonsense") as error:
        experiment_config(f"{path}:nonsense")
    if path.stem not in NEEDED:
        quoted = set(re.findall(r"'([^']+)'", str(error.value))) - {"nonsense"}
        known = NAMED.get(path.stem, ())
        assert all(arg.removesuffix(",folder") in str(error.value) for arg in known)
        assert all(any(name in arg for arg in known) for name in quoted)


@pytest.mark.parametrize("path", [path for path in EXPERIMENTS if path.stem in NEEDED], ids=lambda path: path.stem)
def test_experiments_on_a_checkpoint_ask_for_it(path):
    with pytest.raises(UserError, match=f"takes the folder of a checkpoint or run, as in {path.name}:path/to/"):
        experiment_config(str(path))


@pytest.mark.parametrize("spec", ["pydoc_gpt.py:llama", "pydoc_lstm.py:gru", "text_gpt.py:llama3-8b"])
def test_every_experiments_argument_resolves(spec):
    plain, other = (resolve(experiment_config(f"{ROOT}/experiments/{s}")) for s in (spec.partition(":")[0], spec))
    changed = differences(plain, other)
    assert changed
    assert all(line.startswith(("model.", "optimizer.learning_rate")) for line in changed)


def test_squad_from_tfds_differs_in_the_data_alone():
    spec = f"{ROOT}/experiments/squad_bert.py:{{}}{ROOT}/tests/fixtures/encoders/BertModel"
    plain, tfds = (resolve(experiment_config(spec.format(prefix))) for prefix in ("", "tfds:"))
    assert tfds["data"]["name"] == "tfds_squad"
    assert all(line.startswith("data.") for line in differences(plain, tfds))


def test_every_sweep_resolves():
    for path in EXPERIMENTS:
        module, _ = load_experiment(str(path))
        for overrides in module.sweep() if hasattr(module, "sweep") else ():
            if "train.epochs" in overrides:
                overrides = {"train.steps": None} | overrides
            assert resolve(experiment_config(str(path)), overrides)


def test_overrides_win_and_defaults_fill_in():
    whole = resolve(config(), {"seed": 7, "data.crop": 24, "optimizer.learning_rate": 1, "train.log_every": 5})
    assert whole["seed"] == 7
    assert whole["data"] == {
        "name": "digits",
        "image_size": 28,
        "crop": 24,
        "padding": 0,
        "flip": False,
        "cutout": 0,
    }
    assert whole["optimizer"]["learning_rate"] == 1.0
    assert type(whole["optimizer"]["learning_rate"]) is float
    assert whole["train"]["log_every"] == 5
    assert whole["train"]["eval_every"] == 500
    assert whole["task"]["mean"] == (0.3,)
    assert whole["mesh"] == {"data": -1} | dict.fromkeys(
        ("fsdp", "tensor", "sequence", "expert", "pipeline", "dcn_data", "dcn_fsdp"), 1
    )


def test_resolving_leaves_what_is_given_alone():
    given = config()
    resolve(given, {"data.crop": 8})
    resolve(ConfigDict(given), {"data.crop": 8})
    assert given == config()


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("model.hiden", "hidden"),
        ("task.label_smothing", "label_smoothing"),
        ("data.image_sise", "image_size"),
        ("optimizer.momentun", "momentum"),
        ("train.batchsize", "batch_size"),
        ("mesh.fdsp", "fsdp"),
        ("trian.steps", "train"),
        ("sed", "seed"),
    ],
)
def test_misspelt_keys_are_named_with_the_nearest(key, meant):
    with pytest.raises(UserError, match=f"{key}.*did you mean '{meant}'"):
        resolve(config(), {key: 1})
    section, _, rest = key.partition(".")
    given = config(**{section: config().get(section, {}) | {rest: 1} if rest else 1})
    with pytest.raises(UserError, match=f"did you mean '{meant}'"):
        resolve(given)


@pytest.mark.parametrize(
    ("section", "name", "meant"),
    [
        ("model", "cmn", "cnn"),
        ("task", "image_clasification", "image_classification"),
        ("data", "digit", "digits"),
        ("optimizer", "adamv", "adam"),
    ],
)
def test_misspelt_names_are_named_with_the_nearest(section, name, meant):
    with pytest.raises(UserError, match=f"{name!r}.*did you mean '{meant}"):
        resolve(config(), {f"{section}.name": name})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("seed", 1.5, "a whole number, not 1.5"),
        ("seed", True, "a whole number, not True"),
        ("data.flip", 1, "true or false, not 1"),
        ("data.image_size", "28", "a whole number, not '28'"),
        ("data.image_size", None, "a whole number, not None"),
        ("data.crop", 2.5, "a whole number or none, not 2.5"),
        ("task.mean", 0.5, "a list"),
        ("task.mean", ("a",), "a list"),
        ("train.precision", "float16", "one of 'float32', 'bfloat16'"),
        ("train.wandb", 3, "text or none, not 3"),
        ("optimizer.learning_rate", "fast", "a number, not 'fast'"),
        ("optimizer.nesterov", "yes", "true or false"),
    ],
)
def test_wrong_types_are_refused(key, value, words):
    with pytest.raises(UserError, match=f"config.{key} must be.*{words}"):
        resolve(config(), {key: value})


@pytest.mark.parametrize("section", ["model", "task", "data", "optimizer"])
def test_missing_names_are_refused(section):
    for given in ({}, None, {"name": None}, {"name": 3}):
        with pytest.raises(UserError, match=f"config.{section}.name is missing"):
            resolve(config(**{section: given}))


@pytest.mark.parametrize("key", ["model", "train.steps.more", "seed.low"])
def test_keys_of_the_wrong_depth_are_refused(key):
    with pytest.raises(UserError, match="Config keys look like"):
        resolve(config(), {key: 1})


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_out_of_range_are_refused(seed):
    with pytest.raises(UserError, match=r"config\.seed must be from 0"):
        resolve(config(), {"seed": seed})


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ({}, "exactly one of steps and epochs"),
        ({"steps": 1, "epochs": 1}, "exactly one of steps and epochs"),
        ({"steps": 0}, "steps must be positive"),
        ({"steps": 1, "batch_size": 0}, "batch_size must be positive"),
        ({"steps": 1, "log_every": -1}, "log_every must be 0 or more"),
    ],
)
def test_train_options_out_of_range_are_refused(train, words):
    with pytest.raises(UserError, match=words):
        resolve(config(train=train))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-3", 0.001),
        ("true", True),
        ("False", False),
        ("none", None),
        ("NULL", None),
        ("(1, 2)", (1, 2)),
        ("0.5,0.25", (0.5, 0.25)),
        ("[1]", [1]),
        ("'3'", "3"),
        ("cosine", "cosine"),
        ("data/my file.txt", "data/my file.txt"),
        ("__import__('os')", "__import__('os')"),
        ("{[1]: 2}", "{[1]: 2}"),
        ("", ""),
    ],
)
def test_values_typed_on_the_command_line(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


@pytest.mark.parametrize(
    ("value", "annotation", "wanted"),
    [
        (3, float, 3.0),
        (3.0, int, 3),
        ([1, 2], tuple[float, ...], (1.0, 2.0)),
        ([1, 2.0, 3], tuple[int, int, int], (1, 2, 3)),
        (None, int | None, None),
        (4, int | None, 4),
        ("a", Literal["a", "b"] | None, "a"),
        ({"any": "thing"}, Any, {"any": "thing"}),
    ],
)
def test_conversions(value, annotation, wanted):
    found = checked("x", value, Parameter(annotation))
    assert found == wanted
    assert type(found) is type(wanted)
    if isinstance(wanted, tuple):
        assert [type(v) for v in found] == [type(v) for v in wanted]


@pytest.mark.parametrize(
    ("value", "annotation"), [(True, float), (False, int), ((1, 2), tuple[int, int, int]), ("c", Literal["a"])]
)
def test_what_cannot_be_converted_is_refused(value, annotation):
    with pytest.raises(UserError, match=r"config\.x must be"):
        checked("x", value, Parameter(annotation))


def test_schema_reads_signatures():
    class Thing:
        def __init__(self, size: int, *rest, name: str = "a", rngs=None, **more):
            pass

    assert schema(Thing, without=("rngs",)) == {"size": Parameter(int), "name": Parameter(str, "a")}


def test_differences_name_dotted_keys_and_both_values():
    old = {"seed": 0, "model": {"name": "a", "size": 1}, "gone": 1}
    new = {"seed": 0, "model": {"name": "a", "size": 2}, "new": None}
    assert differences(old, new) == [
        "gone was 1 and is now '(absent)'",
        "model.size was 1 and is now 2",
        "new was '(absent)' and is now None",
    ]
    assert differences(old, old) == []


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (None, "There is no experiment file"),
        ("x = (", "is not Python"),
        ("x = 1", "defines no get_config"),
        ("def get_config(arg=None):\n    raise ValueError('takes no argument')", "get_config takes no argument"),
    ],
)
def test_experiment_files_that_are_none_are_refused(tmp_path, source, words):
    path = Path(tmp_path) / "mine.py"
    if source is not None:
        path.write_text(source)
    with pytest.raises(UserError, match=words):
        experiment_config(f"{path}:arg")


def test_hints_offer_the_nearest_or_all():
    assert nearest("trian", ["train", "mesh"]) == "did you mean 'train'?"
    assert nearest("zzz", ["b", "a"]) == "choose from a, b."
    assert nearest("zzz", map(str, range(31))) == "there are 31 to choose from."
