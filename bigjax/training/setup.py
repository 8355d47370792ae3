"""From a resolved config to everything that training needs; all that a user can get wrong is found here."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.interpreters.partial_eval import dce_jaxpr
from jax.sharding import Mesh, NamedSharding

from bigjax import config as config_lib
from bigjax.data import SOURCES
from bigjax.data.dataset import Dataset
from bigjax.errors import UserError, nearest
from bigjax.memory import release_freed_memory
from bigjax.models import MODELS, SHARDING
from bigjax.models.target import platform
from bigjax.parallel.checks import check_axes, check_batch_size
from bigjax.parallel.mesh import BATCH, batch_shards, make_mesh, state_shardings
from bigjax.tasks import TASKS
from bigjax.tasks.task import Batch, Sums, Task
from bigjax.training.begin import begin_from, documents_of
from bigjax.training.compiler import compiler_options
from bigjax.training.elastic import check_elastic, elastic_step, laid_out
from bigjax.training.finetune import FinetuneOptions, adapt, learning
from bigjax.training.flops import count_flops
from bigjax.training.optimizer import make_optimizer, optimizer_schema
from bigjax.training.state import TrainState, Tree, random_key
from bigjax.training.step import Program, eval_step, train_step

REGISTRIES: Mapping[str, Mapping[str, Callable[..., Any]]] = {"model": MODELS, "task": TASKS, "data": SOURCES}
EXACT = ("num_mels", "subsampling")  # in a model's arguments more than the data need does, but not in these
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def section_schema(section: str, name: str) -> config_lib.Schema:
    """The keys that a config section takes when its name is `name`."""
    if section == "optimizer":
        return optimizer_schema(name)
    if section == "train":
        return config_lib.schema(config_lib.TrainOptions)
    if section == "finetune":
        return config_lib.schema(FinetuneOptions)
    if section == "mesh":
        return config_lib.schema(make_mesh, without=("devices",))
    known = REGISTRIES[section]
    if name not in known:
        raise UserError(f"There is no {section} {name!r}; {nearest(name, known)}")
    return config_lib.schema(known[name], without=("rngs", "dtype"))


def resolve(config: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The whole config, checked; see `bigjax.config.resolve`."""
    return config_lib.resolve(config, overrides or {}, section_schema)


@dataclass(frozen=True)
class Experiment:
    """A config made real: data, mesh, and the compiled-on-first-use steps.

    Attributes:
      config: the resolved config, with the model's arguments that the data decided.
      options: `config.train`.
      steps: how many optimizer steps the run has.
      abstract: the train state's shapes, dtypes and shardings.
      abstract_batch: likewise of the training batch of the first step.
      initial_state: makes the first state from the seed and what it is to begin from, straight into its shards.
      documents: what the run keeps of a checkpoint that it begins from, contents by file name.
      train_step: (state, batch) to (state, sums); the state is donated.
      jitted_step: the same but where `config.reproducible="elastic"`: there `train_step` is several programs.
      eval_step: (params, statistics, carry, batch) to (sums, carry, outputs).
    """

    config: dict[str, Any]
    options: config_lib.TrainOptions
    dataset: Dataset
    task: Task
    mesh: Mesh
    program: Program
    schedule: optax.Schedule
    steps: int
    abstract: TrainState
    abstract_batch: Batch
    initial_state: Callable[[], TrainState]
    documents: Callable[[], dict[str, str]]
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Sums]]
    jitted_step: jax.stages.Wrapped
    eval_step: jax.stages.Wrapped

    def compile_step(self, state: TrainState, batch: Batch) -> None:
        """Compiles the training step, so that memory which that takes is free again when the step takes its own."""
        if self.train_step is self.jitted_step:
            self.jitted_step.lower(state, batch).compile()  # the first call finds it
        release_freed_memory()

    def rows(self, batch_size: int) -> slice:
        """The rows of a global batch that this process loads: from the first to the last that its devices hold."""
        mine = NamedSharding(self.mesh, BATCH).addressable_devices_indices_map((batch_size,)).values()
        ends = [index[0].indices(batch_size) for index in mine if index]
        return slice(min(start for start, *_ in ends), max(stop for _, stop, _ in ends))

    def to_devices(self, batch: Mapping[str, np.ndarray], batch_size: int | None = None) -> Batch:
        """This process's rows as the global batch of so many, or of these alone, laid over the mesh."""
        sharding = NamedSharding(self.mesh, BATCH)
        if jax.process_count() == 1 or batch_size is None:
            return jax.device_put(dict(batch), sharding)
        first = self.rows(batch_size).start

        def lay(x: np.ndarray) -> jax.Array:
            def part(index: Any) -> np.ndarray:
                start, stop, _ = index[0].indices(batch_size)
                return x[start - first : stop - first]

            return jax.make_array_from_callback((batch_size, *x.shape[1:]), sharding, part)

        return jax.tree.map(lay, dict(batch))

    def initial_carry(self, params: Tree, statistics: Tree, batch: Batch) -> Tree:
        """The recurrent state that evaluation begins with, laid over the mesh as the batch is; None for most models."""
        first = jax.jit(
            lambda *arrays: self.task.initial_carry(self.model(*arrays[:2]), arrays[2]),
            out_shardings=NamedSharding(self.mesh, BATCH),
        )
        return first(params, statistics, batch)

    def step_flops(self) -> int:
        """Of one training step over all devices, as one would take it: on a mesh several may hold the same rows."""
        traced = jax.make_jaxpr(partial(train_step, self.program))(self.abstract, self.abstract_batch).jaxpr
        # The optimizer is asked twice, and what neither needs is never computed.
        return count_flops(dce_jaxpr(traced, [True] * len(traced.outvars))[0])

    def model(self, params: Tree, statistics: Tree) -> nnx.Module:
        """A live module with these arrays."""
        return nnx.merge(self.program.graphdef, params, statistics)


def set_up(config: Mapping[str, Any], devices: Sequence[jax.Device] | None = None) -> Experiment:
    """Loads the data of a resolved config and builds its model, optimizer, mesh and steps, without compiling.

    Args:
      config: the resolved config.
      devices: what it runs on; None is all that there are.

    Raises:
      UserError: the data cannot be read, or parts of the config do not fit each other.
    """
    config = {key: dict(value) if isinstance(value, Mapping) else value for key, value in config.items()}
    options = config_lib.TrainOptions(**config["train"])
    finetune = finetune_options(config)
    mesh = make_mesh(**config["mesh"], devices=devices)
    try:
        task = TASKS[config["task"]["name"]](**arguments(config["task"]))
    except ValueError as error:
        raise UserError(f"config.task: {error}.") from error
    accumulate = config["optimizer"]["accumulate_steps"]
    check_batch_size(options.batch_size, batch_shards(mesh), accumulate)
    elastic = config["reproducible"] == "elastic"
    if elastic:
        check_elastic(mesh, options.batch_size, accumulate)
    dataset = SOURCES[config["data"]["name"]](**arguments(config["data"]))
    complete_model(config, task, dataset)
    make_model = model_maker(config)
    abstract_model = nnx.eval_shape(make_model, jax.random.key(0))
    try:
        task.check_model(abstract_model)
    except ValueError as error:
        raise UserError(
            f"The task {config['task']['name']!r} cannot train the model {config['model']['name']!r}: {error}."
        ) from error
    graphdef, learns = nnx.graphdef(abstract_model), learning(abstract_model, finetune)
    steps = options.steps or math.ceil(
        (options.epochs or 0) * dataset.splits["train"].steps_per_epoch(options.batch_size)
    )
    optimizer, schedule = make_optimizer(config["optimizer"], steps, learns)
    program = Program(
        graphdef,
        task,
        optimizer,
        learns,
        accumulate,
        clip_norm=config["optimizer"]["clip_norm"],
        ema_decay=config["optimizer"]["ema_decay"],
        skips=options.on_nonfinite == "skip",
    )

    sample = dataset.splits["train"].train_batch(0, 0, options.batch_size, slice(0, 1))
    batch = {k: jax.ShapeDtypeStruct((options.batch_size, *v.shape[1:]), v.dtype) for k, v in sample.items()}
    check_axes(mesh, config["model"], batch)

    def first(seed: jax.Array) -> TrainState:
        model = make_model(random_key(seed, "init"))
        params, statistics = map(nnx.to_pure_dict, nnx.state(model, nnx.Param, ...))
        ema = params if program.ema_decay is not None else {}
        carry = task.initial_carry(model, batch)
        return TrainState(jnp.int32(0), seed, params, statistics, optimizer.init(params), ema, carry, jnp.int32(0))

    seed = np.uint32(config["seed"])
    shapes = jax.eval_shape(first, seed)
    rules, zero = SHARDING.get(config["model"]["name"], ()), config["optimizer"]["zero"]
    shardings = state_shardings(mesh, shapes, rules, zero)
    if zero > 1:
        cut = state_shardings(mesh, shapes.params, rules)
        program = replace(program, grads_lie=jax.tree.map(lambda sharding: sharding.spec, cut))
    abstract = jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes, shardings
    )

    def make_state() -> TrainState:
        # Where it is elastic on one device, for XLA may round otherwise in a program that is cut over several.
        make = jax.jit(first) if elastic else jax.jit(first, out_shardings=shardings)
        state = make(seed)
        make.clear_cache()  # type: ignore[attr-defined]  # it is as large as the step's program, and is not called again
        return laid_out(jax.device_get(state), shardings) if elastic else state

    whole, rows = NamedSharding(mesh, jax.sharding.PartitionSpec()), NamedSharding(mesh, BATCH)
    for_xla = compiler_options(config["reproducible"], platform())

    def in_mesh(step: Callable[..., Any]) -> Callable[..., Any]:
        def placed(*args: Any) -> Any:
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                return step(program, *args)

        placed.__name__ = step.__name__
        return placed

    jitted_step = jax.jit(
        in_mesh(train_step),
        in_shardings=(shardings, rows),
        out_shardings=(shardings, whole),
        donate_argnums=0,
        compiler_options=for_xla,
    )
    return Experiment(
        config=config,
        options=options,
        dataset=dataset,
        task=task,
        mesh=mesh,
        program=program,
        schedule=schedule,
        steps=steps,
        abstract=abstract,
        abstract_batch=jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=rows), batch),
        initial_state=lambda: begin_from(
            finetune, config["model"], dataset.files.get("tokenizer.json"), abstract, make_state
        ),
        documents=lambda: documents_of(finetune, config["model"]),
        train_step=elastic_step(program, mesh, shardings, for_xla) if elastic else jitted_step,
        jitted_step=jitted_step,
        eval_step=jax.jit(
            in_mesh(eval_step),
            in_shardings=(shardings.params, shardings.statistics, rows, rows),
            out_shardings=(whole, rows, rows),
            compiler_options=for_xla,
        ),
    )


def arguments(section: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a config section."""
    return {key: value for key, value in section.items() if key != "name"}


def complete_model(config: dict[str, Any], task: Task, dataset: Dataset) -> None:
    """Writes into `config.model` what the data decide of it, and checks that nothing is missing."""
    name, section = config["model"]["name"], config["model"]
    keys = section_schema("model", name)
    try:
        offered = task.model_arguments(dataset.info)
    except KeyError as error:
        raise UserError(
            f"The task {config['task']['name']!r} cannot use the data {config['data']['name']!r}, which lack {error}."
        ) from error
    except ValueError as error:
        raise UserError(f"config.task: {error}.") from error
    for key in offered.keys() & keys.keys():
        if section.get(key) is None:
            section[key] = offered[key]
        given, needed = section[key], offered[key]
        if given < needed if isinstance(needed, int) and key not in EXACT else given != needed:
            raise UserError(f"config.model.{key} is {given}, but the data need {needed}.")
    if missing := [k for k, p in keys.items() if k not in section and p.default is inspect.Parameter.empty]:
        raise UserError(f"config.model.{missing[0]} is missing: the model {name!r} needs it.")


def model_maker(config: Mapping[str, Any]) -> Callable[[jax.Array], nnx.Module]:
    """A function from a random key to the model of a completed config.

    Raises:
      UserError: the model refuses its arguments.
    """
    name, precision = config["model"]["name"], config.get("train", {}).get("precision", "float32")
    kwargs, finetune = arguments(config["model"]), finetune_options(config)
    if "dtype" in config_lib.schema(MODELS[name]):
        kwargs["dtype"] = DTYPES[precision]
    elif precision != "float32":
        raise UserError(f"config.train.precision={precision!r} needs a model that takes dtype; {name!r} does not.")

    def make(key: jax.Array) -> nnx.Module:
        return MODELS[name](**kwargs, rngs=nnx.Rngs(params=key))

    def adapted(key: jax.Array) -> nnx.Module:
        return adapt(make(key), finetune, key)

    for function, where in ((make, f"config.model {name!r}"), (adapted, "config.finetune")):
        try:
            nnx.eval_shape(function, jax.random.key(0))
        except (ValueError, OverflowError) as error:
            raise UserError(f"{where}: {error}.") from error
    return adapted


def finetune_options(config: Mapping[str, Any]) -> FinetuneOptions:
    """`config.finetune`, checked."""
    try:
        return FinetuneOptions(**config.get("finetune", {}))
    except ValueError as error:
        raise UserError(f"config.finetune: {error}.") from error
