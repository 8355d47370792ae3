"""The terminal's door: one verb, one function. Everything heavy is imported by the verb that needs it."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from bigjax.errors import UserError, nearest


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code.

    That is 0, 1 where `reproduce` finds a difference, 2 for a user's mistake, 130 or 143 when a signal stopped it.
    """
    arguments, extra = parser().parse_known_args(argv)
    try:
        overrides = parse_overrides(extra, takes_config="config" in arguments)
        return arguments.run(arguments, overrides) or 0
    except UserError as error:
        if os.environ.get("BIGJAX_TRACEBACK"):
            raise
        print(f"bigjax: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        code = getattr(error, "exit_code", None)
        told = "interrupted" if code is None else str(error)
        if "config" in arguments:
            saved = "" if code is None else ", which is saved"
            told += f"{saved}; the same command with the same --workdir goes on"
        print(f"bigjax: {told}.", file=sys.stderr)
        return code or 130


def parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    top = argparse.ArgumentParser(
        prog="bigjax", description="CNNs, RNNs and Transformers in JAX, reproducible to the bit."
    )
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True)

    def verb(name: str, run: object, help: str, parent: argparse._SubParsersAction = verbs) -> argparse.ArgumentParser:
        command = parent.add_parser(name, help=help, description=help, allow_abbrev=False)
        command.set_defaults(run=run)
        return command

    for name, run, text in (
        ("train", train, "train an experiment, or go on with a run that was stopped"),
        ("sweep", sweep, "train every member of an experiment's sweep() and print a table"),
    ):
        command = verb(name, run, text)
        command.add_argument("--config", required=True, metavar="FILE[:ARG]", help="an experiment, experiments/NAME.py")
        command.add_argument("--workdir", help="where the run's files go (default: runs/NAME-<time>)")
        command.epilog = "Any key of the config can be set with --config.KEY=VALUE, as --config.train.steps=100."
        if name == "train":
            command.add_argument("--profile", type=int, default=0, metavar="STEPS", help="trace so many steps")
            command.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, where there are several")
            command.add_argument("--processes", type=int, metavar="N", help="how many processes train together")
            command.add_argument("--process", type=int, metavar="I", help="which this is, from 0")
    command = verb("evaluate", evaluate, "compute a run's metrics on a split again")
    command.add_argument("--workdir", required=True, help="the run's folder")
    command.add_argument("--split", default="test", help="train, validation or test (default: test)")
    command = verb("reproduce", reproduce, "train a run again and say whether the bits are the same")
    command.add_argument("--workdir", required=True, help="the run's folder; nothing in it is changed")
    command.add_argument("--steps", type=int, help="compare only up to this step (default: all)")
    command = verb("generate", generate, "continue a text with a trained or imported language model")
    command.add_argument("--workdir", required=True, help="the run's folder")
    command.add_argument("--prompt", required=True, help="the text to continue")
    command.add_argument("--tokens", type=int, help="how many more, at most (default: 200, or what fits)")
    command.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest (default: 0.8)")
    command.add_argument("--top-k", type=int, default=0, help="only the likeliest k; 0 is all (default: 0)")
    command.add_argument("--top-p", type=float, default=1.0, help="only the likeliest with this share (default: 1)")
    command.add_argument("--repetition-penalty", type=float, default=1.0, help="above 1: less of the same (default: 1)")
    command.add_argument("--beams", type=int, default=1, help="above 1: beam search (default: 1)")
    command.add_argument("--seed", type=int, default=0, help="the same seed gives the same text (default: 0)")
    command = verb("predict", predict, "what a trained model answers to an input")
    command.add_argument("input", metavar="INPUT", help="a text, an image, a WAV file; or a folder or table of them")
    command.add_argument("--workdir", required=True, help="the run's folder")
    command.add_argument("--context", help="the passage that a question is about")
    command.add_argument("--json", action="store_true", help="an object a line, for machines")
    command = verb("import", import_, "read a Hugging Face checkpoint folder into a run's folder")
    command.add_argument("folder", metavar="DIR", help="with config.json and model.safetensors")
    command.add_argument("--workdir", required=True, help="the new run's folder")
    command = verb("export", export, "write a run's model for other libraries")
    command.add_argument("--workdir", required=True, help="the run's folder")
    command.add_argument("--format", choices=["huggingface"], default="huggingface", help="(default: huggingface)")
    command.add_argument("--output", required=True, help="the folder to write")
    data = verbs.add_parser("data", help="prepare data sets").add_subparsers(metavar="VERB", required=True)
    command = verb("prepare", prepare, "download a TFDS data set and write it as ArrayRecord", data)
    command.add_argument("dataset", metavar="NAME", help="its TFDS name, as cifar10 or glue/sst2")
    command.add_argument("--data-dir", help="where to (default: TFDS's own folder)")
    command.add_argument("--manual-dir", help="where the files lie that had to be downloaded by hand")
    command = verb("plan", plan, "say whether a run will fit on devices that are not here, and how fast it can be")
    command.add_argument("--config", required=True, metavar="FILE[:ARG]", help="an experiment, experiments/NAME.py")
    command.add_argument("--topology", required=True, help="v5p:4x4x4, 2xv5p:4x4x4, h200:8, h200:2x8 or cpu:8")
    command.add_argument("--budget", type=float, help="how many tokens, images, ... to train on")
    command.add_argument("--price", type=float, help="of one device for an hour")
    command.add_argument("--output", metavar="FILE", help="where to write the plan as JSON")
    command.add_argument(
        "--search",
        type=int,
        nargs="?",
        const=8,
        metavar="N",
        help="compile N of the meshes, microbatches and remat choices, the most promising, and rank them (default: 8)",
    )
    verb("doctor", doctor, "print versions and devices, and check that they compute")
    return top


def parse_overrides(extra: Sequence[str], takes_config: bool) -> dict[str, object]:
    """`--config.KEY=VALUE` words as dotted keys and values; raises UserError for any other word."""
    from bigjax.config import parse_value

    overrides = {}
    for word in extra:
        key, equals, value = word.partition("=")
        if not (takes_config and key.startswith("--config.")):
            raise UserError(
                f"There is no option {key!r}; {nearest(key, ['--config', '--config.KEY=VALUE', '--workdir'])}"
            )
        if not equals:
            raise UserError(f"{word!r} has no value: write {word}=VALUE.")
        overrides[key.removeprefix("--config.")] = parse_value(value)
    return overrides


def train(arguments: argparse.Namespace, overrides: dict[str, object]) -> None:
    """`bigjax train`."""
    from bigjax.launch import launched_together, supervise

    if arguments.processes or launched_together():
        supervise()
    import jax

    import bigjax

    processes = {name: getattr(arguments, name) for name in ("coordinator", "processes", "process")}
    run = bigjax.train(arguments.config, overrides, arguments.workdir, profile=arguments.profile, processes=processes)
    if jax.process_index():
        return
    print(describe(run.result["metrics"]))
    print(f"params_sha256 {run.result['params_sha256']}")
    print(f"report: {run.workdir / 'report.html'}")


def sweep(arguments: argparse.Namespace, overrides: dict[str, object]) -> None:
    """`bigjax sweep`."""
    from rich.console import Console
    from rich.table import Table

    import bigjax

    table = Table("run", "overrides", "held-out metrics", title=arguments.config)
    for member, run in bigjax.sweep(arguments.config, overrides, arguments.workdir):
        metrics = run.result["metrics"]
        split = next(name for name in ("test", "validation", "train") if name in metrics)
        words = " ".join(f"{key}={value}" for key, value in member.items())
        table.add_row(str(run.workdir), words, describe({split: metrics[split]}))
    Console().print(table)


def evaluate(arguments: argparse.Namespace, overrides: dict[str, object]) -> None:
    """`bigjax evaluate`."""
    import bigjax

    print(describe({arguments.split: bigjax.evaluate(arguments.workdir, arguments.split)}))


def reproduce(arguments: argparse.Namespace, overrides: dict[str, object]) -> int:
    """`bigjax reproduce`: exits with 0 only where all bits are the same."""
    import bigjax

    verdict = bigjax.reproduce(arguments.workdir, arguments.steps)
    if verdict.differences:
        first, *others = verdict.differences
        arrays = [line for line in others if "checkpoint: " in line][:1]
        more = [f"and {len(others) - len(arrays)} more differences"] if len(others) > len(arrays) else []
        print(f"different, in {verdict.compared}:", first, *arrays, *more, sep="\n  ")
    else:
        print(f"identical: {verdict.compared}")
    if verdict.conditions:
        print("not as it was recorded:", *verdict.conditions, sep="\n  ")
    return 1 if verdict.differences else 0


def generate(arguments: argparse.Namespace, overrides: dict[str, object]) -> None:
    """`bigjax generate`: writes the text while it comes."""
    import bigjax
    from bigjax.inference.sampling import Sampling
    from bigjax.inference.text import Options, generate_text, stream_text

    try:
        sampling = Sampling(arguments.repetition_penalty, arguments.temperature, arguments.top_k, arguments.top_p)
    except ValueError as error:
        raise UserError(f"{error}.") from error
    options = Options(arguments.tokens, sampling, arguments.beams, arguments.seed)
    run = bigjax.load(arguments.workdir)
    beams = arguments.beams > 1
    for piece in (
        generate_text(run, [arguments.prompt], options) if beams else stream_text(run, arguments.prompt, options)
    ):
        print(piece, end="", flush=True)
    print()


def predict(arguments: argparse.Namespace, overrides: dict[str, object]) -> None:
    """`bigjax predict`."""
    import json

    import bigjax
    from bigjax.prediction.predict import readable

    options = {} if arguments.context is None else {"context": arguments.context}
    for example, answer in bigjax.predict(arguments.workdir, arguments.input, **options):
        line = json.dumps(example | answer, ensure_ascii=False) if arguments.json else readable(example, answer)
        print(line, flush=True)


def import_(arguments: argparse.Namespace, overrides: dict[str, object]) -> None:
    """`bigjax import`."""
    import bigjax

    run = bigjax.import_checkpoint(arguments.folder, arguments.workdir)
    print(f"imported into {run.workdir}\nparams_sha256 {run.result['params_sha256']}")


def export(arguments: argparse.Namespace, overrides: dict[str, object]) -> None:
    """`bigjax export`."""
    import bigjax

    bigjax.export_checkpoint(arguments.workdir, arguments.output)
    print(f"exported to {arguments.output}")


def prepare(arguments: argparse.Namespace, overrides: dict[str, object]) -> None:
    """`bigjax data prepare`."""
    from bigjax.data.prepare import prepare

    print(prepare(arguments.dataset, arguments.data_dir, arguments.manual_dir))


def plan(arguments: argparse.Namespace, overrides: dict[str, object]) -> None:
    """`bigjax plan`."""
    kind, _, size = arguments.topology.partition(":")
    if kind == "cpu" and size.isdecimal():
        os.environ["JAX_NUM_CPU_DEVICES"] = size
    # What is planned for is not here.
    os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    os.environ |= {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5p-8"}  # any, or libtpu complains
    import json
    from pathlib import Path

    from bigjax.parallel.plan import plan, written
    from bigjax.run import read_config

    output = Path(arguments.output) if arguments.output else None
    if output and (output.is_dir() or not output.parent.is_dir()):
        raise UserError(f"--output={output} cannot be written: it must be a file in a folder that exists.")
    config = read_config(arguments.config, overrides)
    if arguments.search is None:
        found: Any = plan(config, arguments.topology)
        print(written(found, arguments.budget, arguments.price))
    else:
        from bigjax.parallel.search import search, table

        found = search(config, arguments.topology, arguments.search, lambda line: print(line, file=sys.stderr))
        print(table(found))
    if output:
        output.write_text(json.dumps(found, indent=2) + "\n")


def doctor(arguments: argparse.Namespace, overrides: dict[str, object]) -> None:
    """`bigjax doctor`."""
    from bigjax.doctor import doctor

    for line in doctor():
        print(line)


def describe(metrics: dict[str, dict[str, float]]) -> str:
    """A line of figures for each split."""
    from bigjax.training.progress import summary

    return "\n".join(f"{split}: {summary(figures)}" for split, figures in metrics.items())


def script() -> None:
    """The `bigjax` command."""
    sys.exit(main())
