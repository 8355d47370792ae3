"""From an experiment file and overrides to one whole, checked config.

A config section is the keyword arguments of what it configures: `config.model` of the model's class, `config.data` of
the data source's function, and so on. `resolve` fills in every default from those signatures and refuses every key or
type that they do not take, so `config.json` says all that a run depends on and nothing is silently ignored.
"""

import ast
import importlib.util
import inspect
import json
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ml_collections import ConfigDict

from bigjax.errors import UserError, nearest

SECTIONS = ("model", "task", "data", "optimizer", "train", "finetune", "mesh")
DURATIONS = {"train.steps": "epochs", "train.epochs": "steps"}  # overriding one replaces the other


@dataclass(frozen=True)
class TrainOptions:
    """`config.train`: how long, in what portions, and what is kept.

    The run lasts `steps` optimizer steps or `epochs` passes over the training split (give one of the two). Intervals
    are in steps; `log_every=0` and the like switch a thing off. `eval_batch_size=None` is `batch_size`. `precision`
    is what the model computes in; parameters and optimizer state are always float32. Batches are fetched
    ahead by `loader_workers` threads (0: by the loop itself); the batches are the same for any number.

    Where a checkpoint cannot be written (`on_save_error`) training goes on and the next one is tried, or it stops; the
    older ones stay either way.

    A step whose loss or gradient is NaN or infinite changes nothing; then (`on_nonfinite`) the run halts and says where
    the number came from, or skips that batch, or goes back to the last checkpoint and skips all data since; after
    `max_nonfinite` such steps it halts all the same. A step, an evaluation batch or a write that takes longer
    than `stall_seconds`, with its compilation but for the first step's, ends the process, with the stacks of all
    threads on standard error; 0 waits for ever.
    """

    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 128
    eval_batch_size: int | None = None
    log_every: int = 50
    eval_every: int = 500
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    loader_workers: int = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    on_save_error: Literal["continue", "stop"] = "continue"
    on_nonfinite: Literal["halt", "skip", "rollback"] = "halt"
    max_nonfinite: int = 10
    stall_seconds: float = 0.0
    tensorboard: bool = False
    wandb: str | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("takes exactly one of steps and epochs")
        for name in ("steps", "epochs", "batch_size", "eval_batch_size", "keep_checkpoints", "max_nonfinite"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, not {value}")
        for name in ("log_every", "eval_every", "checkpoint_every", "loader_workers", "stall_seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")


@dataclass(frozen=True)
class Parameter:
    """One key that a section takes."""

    annotation: Any
    default: Any = inspect.Parameter.empty


Schema = dict[str, Parameter]

# The keys that stand in no section. `reproducible`: False lets kernels be faster that may give other bits when run
# again (on a GPU; elsewhere there are none); "elastic" gives the same bits on 1, 2, 4 and 8 devices.
SCALARS: Schema = {"seed": Parameter(int, 0), "reproducible": Parameter(bool | Literal["elastic"], True)}


def schema(function: Callable[..., Any], without: tuple[str, ...] = ()) -> Schema:
    """The keys, types and defaults that `function` (or a class) takes by keyword, but those in `without`."""
    if inspect.isclass(function):
        function, without = function.__init__, (*without, "self")
    hints = typing.get_type_hints(function)
    parameters = inspect.signature(function).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        p.name: Parameter(hints.get(p.name, Any), p.default)
        for p in parameters
        if p.kind in kinds and p.name not in without
    }


def load_experiment(spec: str) -> tuple[types.ModuleType, Any]:
    """The module of an experiment file and its argument, from `path/to/x.py` or `path/to/x.py:arg`."""
    path, _, arg = str(spec).partition(":")
    file = Path(path)
    if not file.is_file():
        here = [str(f) for f in file.parent.glob("*.py")] if file.parent.is_dir() else []
        raise UserError(f"There is no experiment file {path!r}; {nearest(path, here)}")
    module_spec = importlib.util.spec_from_file_location(f"bigjax_experiment_{file.stem}", file)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"{path!r} is not a Python file: an experiment is a .py file with get_config(arg=None).")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"{path!r} line {error.lineno} is not Python: {error.msg}.") from error
    if not hasattr(module, "get_config"):
        raise UserError(f"{path!r} defines no get_config(arg=None) that returns a ConfigDict.")
    return module, arg or None


def experiment_config(spec: str) -> ConfigDict:
    """The config that the experiment file `spec` selects, with its name added."""
    module, arg = load_experiment(spec)
    try:
        config = ConfigDict(module.get_config(arg))
    except ValueError as error:
        raise UserError(f"{spec}: get_config {error}.") from error
    config.experiment = Path(str(spec).partition(":")[0]).stem
    return config


def parse_value(text: str) -> Any:
    """A value typed on the command line: a Python literal, true/false/none in any case, else the text itself."""
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text


def resolve(config: Mapping[str, Any], overrides: Mapping[str, Any], schemas: Callable[[str, str], Schema]) -> dict:
    """The whole config as plain nested dicts: overrides applied, defaults filled in, every key and type checked.

    Args:
      config: what an experiment's `get_config` returned, or a recorded `config.json`.
      overrides: dotted keys to values, `{"optimizer.learning_rate": 0.1}`.
      schemas: gives the schema of a section by (section, the section's name or "").

    Raises:
      UserError: an unknown key or name, a wrong type, a value out of range.
    """
    given = json.loads(ConfigDict(config).to_json_best_effort())
    for key, value in overrides.items():
        section, _, rest = key.partition(".")
        if section not in (*SECTIONS, *SCALARS, "experiment"):
            raise UserError(f"There is no config key {key!r}; {nearest(section, (*SECTIONS, *SCALARS))}")
        if (section in SECTIONS) != bool(rest) or "." in rest:
            raise UserError(f"Config keys look like 'seed' or 'optimizer.learning_rate', not {key!r}.")
        if rest:
            given.setdefault(section, {})[rest] = value
            if key in DURATIONS and value is not None:
                given[section].pop(DURATIONS[key], None)
        else:
            given[section] = value
    for key in given:
        if key not in (*SECTIONS, *SCALARS, "experiment"):
            raise UserError(f"There is no config key {key!r}; {nearest(key, (*SECTIONS, *SCALARS))}")
    if isinstance(seed := given.get("seed"), int) and not 0 <= seed < 2**32:
        raise UserError(f"config.seed must be from 0 to 2**32 - 1, not {seed}.")
    whole: dict[str, Any] = {
        "experiment": given.get("experiment", "experiment"),
        **{key: checked(key, given.get(key, p.default), p) for key, p in SCALARS.items()},
    }
    for section in SECTIONS:
        values = given.get(section) or {}
        if not isinstance(values, Mapping):
            raise UserError(f"config.{section} must be a section of keys and values, not {values!r}.")
        values = dict(values)
        named = section in ("model", "task", "data", "optimizer")
        if named and not isinstance(values.get("name"), str):
            raise UserError(f"config.{section}.name is missing: it selects which {section} to use.")
        name = values.pop("name") if named else ""
        whole[section] = ({"name": name} if named else {}) | fill(section, name, values, schemas(section, name))
    try:
        TrainOptions(**whole["train"])
    except ValueError as error:
        raise UserError(f"config.train {error}.") from error
    return whole


def fill(section: str, name: str, values: Mapping[str, Any], keys: Schema) -> dict[str, Any]:
    """`values` of one section checked against `keys`, with the defaults of those not given."""
    for key in values:
        if key not in keys:
            what = f"{section} {name!r}" if name else f"config.{section}"
            raise UserError(f"There is no key 'config.{section}.{key}' in {what}; {nearest(key, keys)}")
    filled = {}
    for key, parameter in keys.items():
        if key in values:
            filled[key] = checked(f"{section}.{key}", values[key], parameter)
        elif parameter.default is not inspect.Parameter.empty:
            filled[key] = parameter.default
        elif section != "model":  # what a model lacks, the data may decide
            raise UserError(f"config.{section}.{key} is missing: {section} {name!r} needs it.")
    return filled


def checked(key: str, value: Any, parameter: Parameter) -> Any:
    """`value` as the type that `parameter` is annotated with (an int where a float is wanted becomes a float)."""
    for annotation in alternatives(parameter.annotation):
        try:
            return converted(value, annotation)
        except TypeError:
            continue
    wanted = " or ".join(describe(a) for a in alternatives(parameter.annotation))
    raise UserError(f"config.{key} must be {wanted}, not {value!r}.")


def alternatives(annotation: Any) -> Iterator[Any]:
    """The members of a union, or the annotation itself."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        yield from typing.get_args(annotation)
    else:
        yield annotation


def converted(value: Any, annotation: Any) -> Any:
    """`value` as an `annotation`; raises TypeError where it is not one."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return value
    if annotation in (None, type(None)) and value is None:
        return None
    if origin is Literal and value in args:
        return value
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if annotation is float and number and abs(value) < 2**1023:
        return float(value)
    if annotation is int and number and abs(value) < 2**32 and (isinstance(value, int) or value.is_integer()):
        return int(value)
    if annotation in (bool, str) and isinstance(value, annotation):
        return value
    if origin is dict and isinstance(value, Mapping):
        return {str(key): converted(item, args[1]) for key, item in value.items()}
    if origin is tuple and isinstance(value, (list, tuple)):
        if args[-1] is ...:
            return tuple(converted(v, args[0]) for v in value)
        if len(value) == len(args):
            return tuple(converted(v, a) for v, a in zip(value, args, strict=True))
    raise TypeError


def describe(annotation: Any) -> str:
    """An annotation in a user's words."""
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "none"}
    if typing.get_origin(annotation) is Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(annotation)))
    if typing.get_origin(annotation) is dict:
        return "a dict"
    if typing.get_origin(annotation) is tuple:
        kinds = [describe(a) if a is not ... else "..." for a in typing.get_args(annotation)]
        return f"a list ({', '.join(kinds)})"
    return words.get(annotation, str(annotation))


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The dotted keys in which two configs differ, each with both values."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key, "(absent)"), new.get(key, "(absent)")
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b and json.dumps(a) != json.dumps(b):  # tuples are lists in a file
            found.append(f"{prefix}{key} was {a!r} and is now {b!r}")
    return found
