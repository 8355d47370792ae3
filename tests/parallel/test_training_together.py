"""`bigjax train` as several real processes over loopback."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bigjax.launch import launched_together

BIGJAX = [sys.executable, "-c", "from bigjax.cli import script; script()", "train"]
DIGITS = [
    "--config=experiments/digits_cnn.py",
    *(f"--config.train.{key}={value}" for key, value in {"epochs": None, "batch_size": 32, "log_every": 10}.items()),
    "--config.optimizer.warmup_steps=5",
    "--config.data.flip=True",
]
SHORT = {"epochs": None, "steps": 12, "batch_size": 16, "log_every": 1, "checkpoint_every": 6}
TEXT = ["--config.optimizer.warmup_steps=1", *(f"--config.train.{key}={value}" for key, value in SHORT.items())]
LSTM = ["--config=experiments/pydoc_lstm.py", "--config.model.d_model=32", "--config.model.d_hidden=64", *TEXT]
GPT = ["--config=experiments/pydoc_gpt.py", "--config.model.d_model=32", "--config.model.num_layers=2", *TEXT]
STACK = ["--config.model.scan_layers=True", "--config.model.dropout=0.0"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def by_flags(index, count, port):
    return [f"--coordinator=127.0.0.1:{port}", f"--processes={count}", f"--process={index}"], {}


def by_slurm(index, count, port):
    step = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_JOB_NUM_NODES": "1"}
    task = {"SLURM_NTASKS": str(count), "SLURM_PROCID": str(index), "SLURM_LOCALID": str(index)}
    return [], step | task | {"JAX_COORDINATOR_PORT": str(port)}


def by_open_mpi(index, count, port):
    job = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911"}
    task = {"OMPI_COMM_WORLD_SIZE": str(count), "OMPI_COMM_WORLD_RANK": str(index)}
    return [], job | task | {"OMPI_COMM_WORLD_LOCAL_RANK": str(index), "JAX_COORDINATOR_PORT": str(port)}


def started(workdir, words, count=2, launch=by_flags, hosts=((), ())):
    """The processes of a run on 8 devices; `words` are of all, or a list for each; `hosts` come before the commands."""
    port, processes = free_port(), []
    for index in range(count):
        found, variables = launch(index, count, port) if count > 1 else ([], {})
        environment = os.environ | variables | {"JAX_NUM_CPU_DEVICES": str(8 // count), "JAX_PLATFORMS": "cpu"}
        own = words[index] if isinstance(words[0], list) else words
        command = [*hosts[index], *BIGJAX, f"--workdir={workdir}", *found, *own]
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    return processes


def ended(processes, seconds=240):
    """Exit codes, and what was written to standard output and to standard error."""
    told = [process.communicate(timeout=seconds) for process in processes]
    return [process.returncode for process in processes], [out for out, _ in told], [err for _, err in told]


def wait_for(path, processes):
    for _ in range(1200):
        if path.exists():
            return
        assert all(process.poll() is None for process in processes), [process.communicate() for process in processes]
        time.sleep(0.1)
    raise AssertionError(f"{path} never came")


def result(workdir):
    return json.loads((workdir / "result.json").read_text())


def losses(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows]


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_with_other_processes_as_if_nothing_had_happened(tmp_path):
    words = [*DIGITS, "--config.reproducible=elastic", "--config.train.steps=60", "--config.train.checkpoint_every=15"]
    (alone,) = started(tmp_path / "alone", words, count=1)
    assert ended([alone])[0] == [0]
    run = tmp_path / "run"

    first = started(run, words)
    wait_for(run / "checkpoints/15/commit_success.txt", first)
    first[1].send_signal(signal.SIGKILL)
    begun = time.monotonic()
    codes, _, errors = ended(first)
    assert time.monotonic() - begun < 60
    assert codes[0] != 0 and codes[1] == -signal.SIGKILL
    assert "of the run has" in errors[0] and "goes on from the newest checkpoint" in errors[0].splitlines()[-1]
    assert not (run / "result.json").exists()

    second = started(run, words)
    wait_for(run / "checkpoints/30/commit_success.txt", second)
    second[1].send_signal(signal.SIGTERM)  # to one of them only
    codes, out, errors = ended(second)
    assert codes == [143, 143]
    assert "resuming at step" in out[0] + errors[0] and "stopped by SIGTERM after step" in errors[1]

    (third,) = started(run, words, count=1)
    assert ended([third])[0] == [0]
    assert result(run)["params_sha256"] == result(tmp_path / "alone")["params_sha256"]
    assert losses(run) == losses(tmp_path / "alone")


@pytest.fixture
def hosts():
    """What runs a command on either of two hosts with addresses of their own: network namespaces of this machine."""
    names = [f"bigjax-{os.getpid()}-{index}" for index in range(2)]
    folders = [Path("/etc/netns") / name for name in names]  # what is there lies over /etc within the namespace
    made = []

    def ip(words):
        subprocess.run(["ip", *words.split()], check=True, capture_output=True)

    try:
        for index, (name, folder) in enumerate(zip(names, folders, strict=True)):
            ip(f"netns add {name}")
            made.append(name)
            ip(f"-n {name} link set lo up")
            folder.mkdir(parents=True)
            # Where a host's name stands for its address, as its neighbours see it.
            (folder / "hosts").write_text(f"10.77.0.{index + 1} {socket.gethostname()}\n127.0.0.1 localhost\n")
        ip(f"link add bigjax0 netns {names[0]} type veth peer name bigjax1 netns {names[1]}")
        for index, name in enumerate(names):
            ip(f"-n {name} addr add 10.77.0.{index + 1}/24 dev bigjax{index}")
            ip(f"-n {name} link set bigjax{index} up")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this machine has no network namespaces for us: {error}")
    else:
        yield [["ip", "netns", "exec", name] for name in names]
    finally:
        for name in made:
            ip(f"netns del {name}")
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def over_the_wire(index, count, port):
    return [f"--coordinator=10.77.0.1:{port}", f"--processes={count}", f"--process={index}"], {}


@pytest.mark.slow
def test_hosts_with_addresses_of_their_own_train_as_one(hosts, tmp_path):
    words = [*DIGITS, "--config.reproducible=elastic", "--config.train.steps=20"]
    (alone,) = started(tmp_path / "alone", words, count=1)
    assert ended([alone])[0] == [0]
    codes, _, errors = ended(started(tmp_path / "run", words, launch=over_the_wire, hosts=hosts))
    assert codes == [0, 0], errors
    assert result(tmp_path / "run")["params_sha256"] == result(tmp_path / "alone")["params_sha256"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of a run of one process with all devices, by its words."""
    found = {}

    def run(words):
        key = tuple(words)
        if key not in found:
            found[key] = tmp_path_factory.mktemp("alone") / "run"
            assert ended(started(found[key], words, count=1))[0] == [0]
        return found[key]

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launch", "words", "mesh"),
    [
        (by_slurm, GPT, {"data": 1, "fsdp": 8}),
        (by_slurm, GPT, {"dcn_data": 2, "data": 1, "fsdp": 4}),  # each process gathers among its own
        (by_slurm, GPT, {"dcn_fsdp": 2, "data": 2, "fsdp": 2}),  # none has rows that follow each other
        (by_slurm, [*GPT, *STACK], {"pipeline": 2, "data": 1, "tensor": 4}),  # both read all rows
        (by_open_mpi, LSTM, {}),
    ],
    ids=["Slurm, fsdp", "Slurm, fsdp within each", "Slurm, fsdp across", "Slurm, a stage in each", "Open MPI, data"],
)
def test_processes_that_find_each_other_train_as_one_does(launch, words, mesh, alone, tmp_path):
    expected = losses(alone(words))
    words = [*words, *(f"--config.mesh.{axis}={size}" for axis, size in mesh.items())]
    codes, out, errors = ended(started(tmp_path / "run", words, launch=launch))
    assert codes == [0, 0], errors
    np.testing.assert_allclose(losses(tmp_path / "run"), expected, rtol=1e-6)
    assert "params_sha256" in out[0] and "params_sha256" not in out[1]  # one of them speaks
    assert (tmp_path / "run/report.html").exists()


@pytest.mark.slow
def test_a_process_with_another_config_is_refused_by_all(tmp_path):
    words = [[*DIGITS, "--config.train.steps=10", f"--config.optimizer.learning_rate={rate}"] for rate in (0.1, 0.2)]
    codes, _, errors = ended(started(tmp_path / "run", words))
    assert codes == [2, 2]
    sentence = "Process 1 has not what process 0 has: config.optimizer.learning_rate is 0.2, not 0.1."
    assert all(error.splitlines()[-1] == f"bigjax: {sentence}" for error in errors)
    assert not (tmp_path / "run/config.json").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--processes=2"], "come together"),
        (["--coordinator=localhost:1", "--processes=2", "--process=2"], "from 0 to 1 of --processes=2, not 2"),
    ],
)
def test_half_a_description_is_refused(words, sentence, tmp_path):
    command = [*BIGJAX, *DIGITS, "--config.train.steps=9", f"--workdir={tmp_path / 'run'}", *words]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 2 and sentence in process.stderr and "Traceback" not in process.stderr


def test_what_starts_several_processes_is_known():
    assert not launched_together({}) and not launched_together({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"})
    assert not launched_together({"SLURM_NTASKS": "4"})  # the shell of salloc
    assert launched_together({"SLURM_NTASKS": "4", "SLURM_PROCID": "3"})
    assert launched_together({"OMPI_COMM_WORLD_SIZE": "2"}) and launched_together({"JOB_COMPLETION_INDEX": "0"})
