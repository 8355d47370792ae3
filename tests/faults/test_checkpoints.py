"""Damaged checkpoints and writes that fail: the newest good one is used, nothing is deleted, the bits are the same."""

import errno
import fcntl
import json
import os
import shutil
import signal

import pytest

import bigjax
from bigjax.errors import SaveError, UserError
from bigjax.training import loop
from bigjax.training.checkpoint import Checkpoints, newest_weights, saved_steps
from bigjax.training.interrupt import Interrupts, Stopped
from bigjax.training.reproduce import figures
from bigjax.training.workdir import Workdir

CONFIG = {
    "model": {"name": "cnn", "channels": (4, 8), "hidden": 256},
    "task": {"name": "image_classification"},
    "data": {"name": "digits", "flip": True},
    "optimizer": {"name": "sgd", "learning_rate": 0.01, "momentum": 0.9},
    "train": {
        "steps": 9,
        "batch_size": 16,
        "log_every": 2,
        "eval_every": 6,
        "checkpoint_every": 3,
        "keep_checkpoints": 3,
    },
}


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """A run that nothing happened to."""
    return bigjax.train(CONFIG, workdir=tmp_path_factory.mktemp("twin") / "run", quiet=True)


@pytest.fixture
def stopped(twin, tmp_path):
    """A copy of it that has its three checkpoints, and is to go on from the last."""
    shutil.copytree(twin.workdir, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    return tmp_path / "run"


def largest(folder):
    """The largest file with arrays."""
    return max((path for path in folder.rglob("d/*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip(folder):
    file = largest(folder)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def truncate(folder):
    file = largest(folder)
    file.write_bytes(file.read_bytes()[:100])


def zero(folder):
    file = largest(folder)
    content = bytearray(file.read_bytes())
    content[: min(4096, len(content))] = bytes(min(4096, len(content)))
    file.write_bytes(content)


DAMAGE = {
    "a flipped bit": flip,
    "a truncated file": truncate,
    "a zeroed page": zero,
    "a file that is gone": lambda folder: largest(folder).unlink(),
    "no arrays": lambda folder: shutil.rmtree(folder / "state"),
    "metadata cut off": lambda folder: (folder / "_CHECKPOINT_METADATA").write_text("{"),
    "no metadata": lambda folder: (folder / "_CHECKPOINT_METADATA").unlink(),
    "never finished": lambda folder: (folder / "commit_success.txt").unlink(),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_the_one_before_a_damaged_checkpoint_is_used(kind, twin, stopped, capsys):
    DAMAGE[kind](stopped / "checkpoints" / "9")
    run = bigjax.train(CONFIG, workdir=stopped)
    out = capsys.readouterr().out
    assert "resuming at step 6 of 9" in out and "checkpoint 9 was set aside" in out
    assert [path.name for path in (stopped / "damaged").iterdir()] == ["9-0"]
    assert run.result["params_sha256"] == twin.result["params_sha256"]
    assert saved_steps(stopped / "checkpoints") == [3, 6, 9]


def test_stray_folders_are_no_checkpoints(twin, stopped):
    shutil.rmtree(stopped / "checkpoints" / "9")
    for name in ("7", "99"):
        (stopped / "checkpoints" / name).mkdir()
    (stopped / "checkpoints" / "99" / "junk").write_text("?")
    (stopped / "checkpoints" / "notes").mkdir()
    (stopped / "checkpoints" / "8").write_text("a file")
    run = bigjax.train(CONFIG, workdir=stopped, quiet=True)
    assert run.result["params_sha256"] == twin.result["params_sha256"]
    assert sorted(path.name for path in (stopped / "damaged").iterdir()) == ["7-0", "8-0", "99-0"]
    assert saved_steps(stopped / "checkpoints") == [3, 6, 9]


def test_only_a_run_without_a_good_checkpoint_stops(stopped):
    """Each time that it is started: it never begins anew over what is there, and a cause that passes does no harm."""
    for step in (3, 6, 9):
        flip(stopped / "checkpoints" / str(step))
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    for _ in range(2):
        with pytest.raises(UserError, match=r"No checkpoint in .* can be read: .*Nothing was deleted"):
            bigjax.train(CONFIG, workdir=stopped, quiet=True)
    assert before == {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}


def test_a_run_whose_checkpoints_were_all_set_aside_does_not_begin_anew(stopped):
    for step in (3, 6, 9):
        (stopped / "checkpoints" / str(step) / "commit_success.txt").unlink()
    figures = (stopped / "metrics.jsonl").read_bytes()
    for _ in range(2):
        with pytest.raises(UserError, match=r"can be read: all that there were are in .*damaged\."):
            bigjax.train(CONFIG, workdir=stopped, quiet=True)
    assert (stopped / "metrics.jsonl").read_bytes() == figures
    assert len(list((stopped / "damaged").iterdir())) == 3


def test_a_reader_uses_an_older_one_and_moves_nothing(stopped):
    DAMAGE["metadata cut off"](stopped / "checkpoints" / "9")
    with pytest.warns(UserWarning, match=r"Checkpoint 9 in .*\. An older checkpoint is used"):
        newest_weights(stopped)
    assert saved_steps(stopped / "checkpoints") == [3, 6, 9] and not (stopped / "damaged").exists()
    for step in (3, 6):
        DAMAGE["metadata cut off"](stopped / "checkpoints" / str(step))
    with pytest.raises(UserError, match="Checkpoint 3 in"), pytest.warns(UserWarning):
        newest_weights(stopped)


def test_an_array_that_is_not_what_was_written_is_named(stopped):
    """Whatever the storage lets through: each array is held against its own hash."""
    file = stopped / "checkpoints" / "9" / "_CHECKPOINT_METADATA"
    metadata = json.loads(file.read_text())
    metadata["custom_metadata"]["sha256"]["params/head/bias"] = "0" * 64
    file.write_text(json.dumps(metadata))
    with pytest.warns(UserWarning, match="is damaged: array params/head/bias is not what was written"):
        newest_weights(stopped)


def test_a_reader_leaves_a_write_that_is_under_way_alone(stopped):
    half = stopped / "checkpoints" / "12.orbax-checkpoint-tmp"
    half.mkdir()
    bigjax.load(stopped).model  # noqa: B018
    assert half.exists()


def failing(message, times):
    """An Orbax save that fails the first `times`."""
    from orbax.checkpoint import v1 as ocp

    real, calls = ocp.training.Checkpointer.save, []

    def save(self, *args, **kwargs):
        calls.append(args[0])
        if len(calls) <= times:
            raise OSError(28, message)
        return real(self, *args, **kwargs)

    return save


def test_training_goes_on_where_a_write_fails_or_stops_where_asked(twin, tmp_path, monkeypatch, capsys):
    from orbax.checkpoint import v1 as ocp

    monkeypatch.setattr(ocp.training.Checkpointer, "save", failing("No space left on device", 2))
    run = bigjax.train(CONFIG, workdir=tmp_path / "on")
    assert run.result["params_sha256"] == twin.result["params_sha256"]
    out = capsys.readouterr().out
    for step in (3, 6):
        assert f"Checkpoint {step} could not be written ([Errno 28] No space left on device); the older ones" in out
    assert saved_steps(tmp_path / "on" / "checkpoints") == [9]
    monkeypatch.setattr(ocp.training.Checkpointer, "save", failing("No space left on device", 1))
    stop = CONFIG | {"train": CONFIG["train"] | {"on_save_error": "stop"}}
    with pytest.raises(SaveError, match="Checkpoint 3 could not be written"):
        bigjax.train(stop, workdir=tmp_path / "stop", quiet=True)
    assert not (tmp_path / "stop" / "result.json").exists()
    monkeypatch.setattr(ocp.training.Checkpointer, "save", failing("No space left on device", 3))
    with pytest.raises(SaveError, match="Checkpoint 9 could not be written"):  # no later one will be
        bigjax.train(CONFIG, workdir=tmp_path / "last", quiet=True)
    assert not (tmp_path / "last" / "result.json").exists()


def test_a_write_that_fails_at_its_end_leaves_the_old_one_until_the_next_is_whole(tmp_path, monkeypatch):
    from orbax.checkpoint._src.path.atomicity import AtomicRenameTemporaryPath

    real, found = AtomicRenameTemporaryPath.finalize, {}

    async def finalize(self):
        final = self._final_path
        if final.parent.name == "checkpoints":
            found[int(final.name)] = saved_steps(tmp_path / "run" / "checkpoints")
            if final.name == "6":
                raise OSError(28, "No space left on device")
        await real(self)

    monkeypatch.setattr(AtomicRenameTemporaryPath, "finalize", finalize)
    one = CONFIG | {"train": CONFIG["train"] | {"keep_checkpoints": 1, "eval_every": 0}}
    bigjax.train(one, workdir=tmp_path / "run", quiet=True)
    assert found == {3: [], 6: [3], 9: [3]}
    assert saved_steps(tmp_path / "run" / "checkpoints") == [9]


def test_signals_in_the_middle_of_an_evaluation_lose_no_figure(twin, tmp_path, monkeypatch):
    real, signals = loop.evaluate, []

    def evaluate(*arguments):
        if len(signals) < 3:
            signals.append(os.kill(os.getpid(), signal.SIGTERM))
        return real(*arguments)

    monkeypatch.setattr(loop, "evaluate", evaluate)
    for _ in range(3):
        with pytest.raises(Stopped, match="stopped by SIGTERM after step 6"):
            bigjax.train(CONFIG, workdir=tmp_path / "run", quiet=True)
    run = bigjax.train(CONFIG, workdir=tmp_path / "run", quiet=True)
    assert run.result["params_sha256"] == twin.result["params_sha256"]
    assert list(map(figures, Workdir(run.workdir).rows())) == list(map(figures, Workdir(twin.workdir).rows()))


def test_a_stop_that_cannot_be_saved_does_not_say_that_it_is(tmp_path, monkeypatch):
    from orbax.checkpoint import v1 as ocp

    monkeypatch.setattr(ocp.training.Checkpointer, "save", failing("No space left on device", 1))
    monkeypatch.setattr(Interrupts, "goes_on", lambda self: False)
    with pytest.raises(SaveError, match="Checkpoint 1 could not be written"):
        bigjax.train(CONFIG, workdir=tmp_path / "run", quiet=True)


def test_a_run_that_is_killed_while_its_report_is_made_is_taken_up_again(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(loop, "examples", lambda *_: 1 / 0)
        bigjax.train(CONFIG, workdir=tmp_path / "run", quiet=True)
    bigjax.train(CONFIG, workdir=tmp_path / "run", quiet=True)
    assert (tmp_path / "run" / "result.json").exists() and (tmp_path / "run" / "report.html").exists()


def test_a_line_of_figures_is_whole_or_not_there(tmp_path, monkeypatch):
    folder = Workdir(tmp_path)
    folder.append(row(1))
    real = json.dumps

    class Full(str):
        def __add__(self, other):
            with folder.metrics.open("a") as file:
                file.write('{"st')
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dumps", lambda row: Full(real(row)))
    with pytest.raises(SaveError, match=r"metrics\.jsonl could not be written: No space left on device"):
        folder.append(row(2))
    monkeypatch.undo()
    folder.append(row(3))
    assert folder.rows() == [row(1), row(3)]


def row(step):
    return {"step": step, "split": "train", "seconds": 0.5}


def test_only_the_damaged_lines_of_figures_are_left_out(tmp_path):
    folder = Workdir(tmp_path)
    for step in (1, 2):
        folder.append(row(step))
    text = folder.metrics.read_text()
    folder.metrics.write_text(text.replace("\n", '\n\n{"step": 1, "spl\n{"step": 9}\n' + "[" * 100_000 + "\n", 1))
    assert folder.rows() == [row(1), row(2)] == folder.keep_rows(5)


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    one, two = Workdir(tmp_path / "run"), Workdir(tmp_path / "run")
    with one.locked(), pytest.raises(UserError, match="Another process trains in"), two.locked():
        pass
    with two.locked():  # the lock is gone with its owner, and leaves nothing behind
        assert list((tmp_path / "run").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"), Workdir(tmp_path / "file").locked():
        pass


def test_a_folder_that_cannot_be_locked_or_written(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.EBADF, "Bad file descriptor")  # a folder on NFS

    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="cannot be locked .*no other process"):
        patch.setattr(fcntl, "flock", flock)
        with Workdir(tmp_path / "run").locked():
            pass
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match="cannot be written"), Workdir(tmp_path / "run").locked():
        pass
    (tmp_path / "run" / "checkpoints").write_text("")
    with pytest.raises(UserError, match="checkpoints cannot be written: File exists"):
        Checkpoints(tmp_path / "run" / "checkpoints")


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "deep.json").write_text("[" * 100_000)
    for name, words in (("folder.json", "cannot be read: Is a directory"), ("deep.json", "is damaged: ")):
        with pytest.raises(UserError, match=words):
            Workdir(tmp_path).read(name)
    with pytest.raises(UserError, match="cannot be read: Not a directory"):
        Workdir(tmp_path / "deep.json").read("config.json")
