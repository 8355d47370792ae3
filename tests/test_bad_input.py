"""Bad input gets one sentence and exit code 2, before anything is compiled or written."""

import json

import jax
import pytest

from bigjax.cli import main
from bigjax.training.compiler import compiler_options

DIGITS, PYDOC = "experiments/digits_cnn.py", "experiments/pydoc_gpt.py"


@pytest.fixture
def refused(tmp_path, capsys, monkeypatch):
    """Runs a command that must be refused, without a compilation and without a trace on disk; returns the sentence."""

    compiler_options(False, "cpu")  # compiles once to see what the compiler knows

    def compiled(*_):
        raise AssertionError("something was compiled")

    def run(*arguments, workdir=None):
        monkeypatch.setattr(jax.stages.Lowered, "compile", compiled)
        target = workdir or tmp_path / "run"
        before = sorted(target.rglob("*"))
        code = main([*arguments, f"--workdir={target}"] if arguments[0] != "data" else list(arguments))
        error = capsys.readouterr().err
        assert code == 2, error
        assert error.startswith("bigjax: ") and error.count("\n") == 1, error
        assert sorted(target.rglob("*")) == before
        return error

    return run


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("optimizer.lerning_rate=1", "did you mean 'learning_rate'?"),
        ("optimzer.learning_rate=1", "did you mean 'optimizer'?"),
        ("optimizer.name=adamm", "did you mean 'adam'?"),
        ("model.name=cn", "did you mean 'cnn'?"),
        ("model.hiden=3", "did you mean 'hidden'?"),
        ("model.d_model=3", "in model 'cnn'; choose from channels, hidden, image_shape, num_classes"),
        ("task.name=image_clasification", "did you mean 'image_classification'?"),
        ("data.name=digit", "did you mean 'digits'?"),
        ("train.step=3", "did you mean 'steps'?"),
        ("train.steps=abc", "must be a whole number or none, not 'abc'"),
        ("train.steps=1.5", "must be a whole number or none, not 1.5"),
        ("train.batch_size=true", "must be a whole number, not True"),
        ("train.batch_size=0", "batch_size must be positive"),
        ("train.precision=float16", "one of 'float32', 'bfloat16'"),
        ("optimizer.accumulate_steps=3", "batch_size=32 does not divide into 3 microbatches on 1 devices; the nearest"),
        ("optimizer.clip_norm=-1", "out of range"),
        ("optimizer.warmup_steps=100000", "but the run has only"),
        ("data.crop=40", "the images are only 28x28"),
        ("data.crop=22", "must divide by 4, and 22x22 does not"),
        ("mesh.data=3", "is not the number of devices"),
        ("model.num_classes=5", "the data need 10"),
        ("task.mean=(0.1,0.2)", "mean has 2 values, but the images have 1 channels"),
        ("seed=1" + 400 * "0", "config.seed must be from 0"),
        ("optimizer.name=adagrad", "momentum"),
        ("model.hidden=0", "hidden must be positive, not 0"),
        ("model.channels=(0,)", "channels must be positive, not 0"),
        ("data.crop=0", "config.data.crop must be at least 1, not 0"),
        ("data.padding=-1", "config.data.padding must be at least 0, not -1"),
        ("data.image_size=0", "config.data.image_size must be positive, not 0"),
        ("task.std=()", "std must be positive"),
        ("seed=-1", "config.seed must be from 0"),
        ("seed.x=1", "Config keys look like"),
    ],
)
def test_a_wrong_override(refused, override, sentence):
    assert sentence in refused("train", f"--config={DIGITS}", f"--config.{override}")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.num_heads=3", "3 does not divide 128"),
        ("model.num_heads=-4", "num_heads must be positive"),
        ("model.num_kv_heads=0", "num_kv_heads must be positive"),
        ("model.num_layers=0", "num_layers must be positive"),
        ("model.dropout=1.5", "dropout must be at least 0 and below 1"),
        ("model.context=64", "the data need 128"),
        ("data.context=1000000", "too short for config.data.context"),
        ("optimizer.weight_decay_mask=foo", "found in no parameter"),
        ("data.name=text_file", "config.data.train is missing: data 'text_file' needs it"),
    ],
)
def test_parts_that_do_not_fit(refused, override, sentence):
    assert sentence in refused("train", f"--config={PYDOC}", f"--config.{override}")


def test_a_section_that_is_none(refused, tmp_path):
    file = tmp_path / "x.py"
    file.write_text("def get_config(arg=None):\n    return dict(model='cnn')\n")
    assert "config.model must be a section of keys and values, not 'cnn'" in refused("train", f"--config={file}")


def test_a_task_that_the_data_cannot_serve(refused, tmp_path):
    file = tmp_path / "x.py"
    file.write_text(
        "def get_config(arg=None):\n"
        "    return dict(model=dict(name='cnn'), task=dict(name='image_classification'), data=dict(name='pydoc'),\n"
        "                optimizer=dict(name='sgd', learning_rate=0.1), train=dict(steps=1))\n"
    )
    assert "cannot use the data 'pydoc'" in refused("train", f"--config={file}")


@pytest.mark.parametrize(
    ("config", "model", "words"),
    [
        (PYDOC, "dict(name='bert', num_layers=1)", "a BERT is no language model, for it takes no carry"),
        (PYDOC, "dict(name='whisper', num_layers=1)", "a Whisper is no language model"),
        (DIGITS, "dict(name='gpt', vocab_size=9, context=8, num_layers=1)", "a GPT is no model of images"),
    ],
)
def test_a_model_that_the_task_cannot_train(refused, tmp_path, config, model, words):
    file = tmp_path / "x.py"
    text = (
        f"def get_config(arg=None):\n    config = load({config!r})\n    config['model'] = {model}\n    return config\n"
    )
    file.write_text("from bigjax.config import experiment_config as load\n" + text)
    assert "cannot train the model" in (error := refused("train", f"--config={file}"))
    assert words in error


def test_experiment_files(refused, tmp_path):
    assert "did you mean 'experiments/digits_cnn.py'?" in refused("train", "--config=experiments/digit_cnn.py")
    assert "takes no argument, 'llama' or 'moe', not 'lama'" in refused("train", f"--config={PYDOC}:lama")
    broken = tmp_path / "broken.py"
    broken.write_text("def get_config(:\n")
    assert "line 1 is not Python" in refused("train", f"--config={broken}")
    broken.write_text("x = 1\n")
    assert "defines no get_config" in refused("train", f"--config={broken}")


def test_text_files(refused, tmp_path):
    file = tmp_path / "text.txt"
    command = ("train", f"--config={PYDOC}", "--config.data.name=text_file", f"--config.data.train={file}")
    assert "There is no text file" in refused(*command)
    file.write_text("")
    assert "has 0 bytes" in refused(*command)
    file.write_text("too short")
    assert "too short for config.data.context=128" in refused(*command)


def test_options(refused):
    assert "did you mean '--config'?" in refused("train", f"--config={DIGITS}", "--confi=3")
    assert "has no value" in refused("train", f"--config={DIGITS}", "--config.seed")
    assert "holds no run" in refused("evaluate")


def test_a_workdir_that_holds_something_else(refused, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("all my work")
    assert "holds files but no run" in refused("train", f"--config={DIGITS}", workdir=other)
    file = tmp_path / "file"
    file.write_text("")
    assert "is a file" in refused("train", f"--config={DIGITS}", workdir=file)


def test_a_workdir_that_holds_another_experiment(tmp_path, refused):
    from bigjax.run import read_config
    from bigjax.training.setup import set_up

    config = set_up(read_config(DIGITS, None)).config
    config["optimizer"]["learning_rate"] = 0.5
    workdir = tmp_path / "other"
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(config))
    error = refused("train", f"--config={DIGITS}", workdir=workdir)
    assert "holds a different experiment: optimizer.learning_rate was 0.5 and is now 0.001." in error
    (workdir / "config.json").write_text('{"model": ')
    assert "is damaged" in refused("train", f"--config={DIGITS}", workdir=workdir)
