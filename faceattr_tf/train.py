"""Training: one loop for every recipe, from a laptop's CPU to several machines.

The loop is written by hand around a Keras model and Keras optimizers, because in this Keras
`Model.fit` does not run under `MultiWorkerMirroredStrategy`. A run is a function of its recipe
and its records: the batch and the dropout of a step follow from (seed, step), so that a run that
was killed ends as the one that was not.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from data_pipelines.errors import UserError
from data_pipelines.input import Source, evaluation_batches, training_batches
from data_pipelines.records import RecordSet
from data_pipelines.tasks import Task
from faceattr_tf.calibration import calibrate
from faceattr_tf.configs.base import Phase, Recipe
from faceattr_tf.distribution import checkpoint_folder, create_strategy, distribute, is_chief
from faceattr_tf.evaluate import forward_function, predict_outputs
from faceattr_tf.losses import label_weights, task_loss
from faceattr_tf.metrics import evaluate_task
from faceattr_tf.model_card import model_card
from faceattr_tf.models import build_model
from faceattr_tf.optimization import create_optimizer
from faceattr_tf.task_stopping import should_stop
from faceattr_tf.workdir import Workdir

LOWER_IS_BETTER = ("loss", "nme", "failure_rate", "mae", "rmse")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A recipe together with the records it reads.

    Attributes:
        recipe: what the user asked for.
        record_sets: the records, in the order of `recipe.data.records`.
        tasks: what the model learns.
        phase_ends: for each phase the step at which it ends, counted from the start of the run.
        steps_per_epoch: steps in which as many examples are seen as the training split holds.
    """

    recipe: Recipe
    record_sets: tuple[RecordSet, ...]
    tasks: tuple[Task, ...]
    phase_ends: tuple[int, ...]
    steps_per_epoch: int

    @classmethod
    def of(cls, recipe: Recipe) -> "Experiment":
        """Loads the records and resolves tasks and lengths.

        Raises:
            UserError: records, tasks or phases do not fit together.
        """
        data = recipe.data
        if not data.records:
            raise UserError("no records: give --records=FOLDER, as faceattr-data build wrote it")
        if not recipe.phases:
            raise UserError(f"recipe {recipe.name!r} has no phases")
        record_sets = tuple(RecordSet.load(path) for path in data.records)
        if data.weights and len(data.weights) != len(record_sets):
            raise UserError(
                f"data.weights has {len(data.weights)} values for {len(record_sets)} record sets"
            )
        examples = sum(
            records.count("train", data.validation_share, recipe.seed) for records in record_sets
        )
        steps_per_epoch = max(1, round(examples / data.batch_size))
        ends, end = [], 0
        for phase in recipe.phases:
            end += phase.steps or round(phase.epochs * steps_per_epoch)
            ends.append(end)
        if not end:
            raise UserError(f"recipe {recipe.name!r}: its phases have no steps and no epochs")
        tasks = select_tasks(recipe, record_sets)
        return cls(recipe, record_sets, tasks, tuple(ends), steps_per_epoch)

    def sources(self, split: str) -> list[Source]:
        """One source of examples per record set."""
        data = self.recipe.data
        weights = data.weights or [
            records.count("train", data.validation_share, self.recipe.seed)
            for records in self.record_sets
        ]
        return [
            Source(records, split, data.validation_share, self.recipe.seed, weight)
            for records, weight in zip(self.record_sets, weights, strict=True)
        ]

    def phase_at(self, step: int) -> int:
        """Index of the phase that the step belongs to."""
        return next(index for index, end in enumerate(self.phase_ends) if step < end)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the model's input."""
        return (self.recipe.data.crop.height, self.recipe.data.crop.width, 3)

    def majority(self) -> dict[str, list[int]]:
        """Per task the classes that the training splits hold most of; the honest floor."""
        return {
            name: np.argmax(counts, axis=-1).reshape(-1).tolist()
            for name, counts in self.label_counts().items()
        }

    def label_counts(self) -> dict[str, np.ndarray]:
        """Per task the training labels: `[labels, 2]` no/yes, or `[classes]`."""
        counts = {}
        for task in self.tasks:
            if task.kind not in ("multilabel", "multiclass"):
                continue
            width = (len(task.labels), 2) if task.kind == "multilabel" else (len(task.labels),)
            total = np.zeros(width, np.int64)
            for records in self.record_sets:
                stored = {known.name: known for known in records.tasks}.get(task.name)
                if stored is None:
                    continue
                of_split = records.label_counts["train"][task.name]
                for index, label in enumerate(task.labels):
                    if label in stored.labels:
                        total[index] += of_split[stored.labels.index(label)]
            counts[task.name] = total
        return counts

    def metadata(self) -> dict:
        """What evaluation, prediction and export have to know of the run."""
        return {
            "tasks": [task.to_dict() for task in self.tasks],
            "crop": self.recipe.data.crop.to_dict(),
            "input_shape": list(self.input_shape),
            "majority": self.majority(),
            "records": [
                {
                    "path": records.path,
                    "name": records.name,
                    "fingerprint": records.description.get("fingerprint"),
                    "licence": records.description.get("licence"),
                    "splits": records.splits,
                }
                for records in self.record_sets
            ],
        }


def select_tasks(recipe: Recipe, record_sets: Sequence[RecordSet]) -> tuple[Task, ...]:
    """The tasks that the recipe names, as the record sets know them.

    Raises:
        UserError: no record set has the task, or the task has no such label.
    """
    if not recipe.tasks:
        return record_sets[0].tasks
    tasks = []
    for config in recipe.tasks:
        known = [task for records in record_sets for task in records.tasks]
        task = next((task for task in known if task.name == config.name), None)
        if task is None:
            names = ", ".join(sorted({task.name for task in known}))
            raise UserError(f"no records hold the task {config.name!r}; they hold: {names}")
        try:
            tasks.append(task.select(config.labels) if config.labels else task)
        except ValueError as error:
            raise UserError(str(error)) from None
    return tuple(tasks)


class TrainingState:
    """Every variable of a run: what a checkpoint holds."""

    def __init__(self, experiment: Experiment, strategy: tf.distribute.Strategy):
        recipe = experiment.recipe
        self.strategy = strategy
        # Under a global seed of 0, tf.data cannot shuffle by a seed that is a tensor.
        initial_seed = abs(recipe.seed) + 1
        keras.utils.set_random_seed(initial_seed)
        with strategy.scope():
            self.model = create_model(
                experiment, recipe.precision, synchronized=strategy.num_replicas_in_sync > 1
            )
            weights = [config.weight for config in recipe.tasks] or [1.0] * len(experiment.tasks)
            self.task_weights = tf.Variable(weights, trainable=False, dtype=tf.float32)
            # Sums of each task's loss and the number of steps, since the last log row and since
            # the last validation.
            self.logged = tf.Variable(tf.zeros(len(weights) + 1), trainable=False)
            self.validated = tf.Variable(tf.zeros(len(weights) + 1), trainable=False)
            self.step = tf.Variable(0, trainable=False, dtype=tf.int64)
            self.broken_step = tf.Variable(-1, trainable=False, dtype=tf.int64)
            self.best = tf.Variable(np.inf, trainable=False, dtype=tf.float64)
            self.best_step = tf.Variable(-1, trainable=False, dtype=tf.int64)
            self.trained = []
            self.optimizers = []
            for index, phase in enumerate(recipe.phases):
                self.trained.append(freeze(self.model, phase))
                begin = experiment.phase_ends[index - 1] if index else 0
                steps = experiment.phase_ends[index] - begin
                optimizer = create_optimizer(phase, steps, recipe.precision)
                optimizer.build(self.trained[-1])
                self.optimizers.append(optimizer)
            self.averages = (
                [tf.Variable(weight.value, trainable=False) for weight in self.model.weights]
                if recipe.average
                else []
            )
        # Validation, the best model and export use this one: float32, outside every strategy.
        self.evaluated_model = create_model(experiment, "float32")
        self.forward = forward_function(self.evaluated_model)
        self.seeds = [layer.seed_generator.state for layer in self.model.layers if has_seed(layer)]
        self.checkpoint = tf.train.Checkpoint(
            weights=[weight.value for weight in self.model.weights],
            averages=self.averages,
            optimizers=[[v.value for v in optimizer.variables] for optimizer in self.optimizers],
            task_weights=self.task_weights,
            logged=self.logged,
            validated=self.validated,
            step=self.step,
            best=self.best,
            best_step=self.best_step,
        )

    def update_evaluated_model(self) -> None:
        """Gives the model that is validated the present weights, averaged where asked for."""
        source = self.averages or self.model.weights
        self.evaluated_model.set_weights([weight.numpy() for weight in source])


def has_seed(layer: keras.Layer) -> bool:
    """Whether the layer draws random numbers from a seed of its own (dropout)."""
    return getattr(layer, "seed_generator", None) is not None


def create_model(experiment: Experiment, precision: str, **options) -> keras.Model:
    """The recipe's network for its tasks and crop, under a precision policy."""
    config = experiment.recipe.model
    if config.dropout:
        options["dropout"] = config.dropout
    if config.width != 1.0:
        options["width"] = config.width
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        return build_model(
            config.name,
            experiment.tasks,
            experiment.input_shape,
            **options,
            **dict(config.options),
        )
    finally:
        keras.config.set_dtype_policy(previous)


def freeze(model: keras.Model, phase: Phase) -> list:
    """Makes the layers of a phase trainable and freezes the others; returns what trains.

    A frozen batch normalisation neither learns nor moves its statistics.

    Raises:
        UserError: no layer matches.
    """
    for layer in model.layers:
        layer.trainable = re.search(phase.trainable, layer.name) is not None
    if not model.trainable_variables:
        raise UserError(
            f"phase {phase.name!r}: trainable {phase.trainable!r} matches no layer with weights"
        )
    return list(model.trainable_variables)


def create_train_step(state: TrainingState, experiment: Experiment, phase_index: int):
    """The compiled step of a phase: `batch -> None`; losses are added up in `state`."""
    recipe = experiment.recipe
    phase = recipe.phases[phase_index]
    strategy, optimizer = state.strategy, state.optimizers[phase_index]
    variables = freeze(state.model, phase)
    replicas = strategy.num_replicas_in_sync
    losses = create_losses(experiment)

    def replica_step(batch):
        with tf.GradientTape() as tape:
            outputs = state.model(batch["image"], training=True)
            per_task = tf.stack(
                [
                    tf.reduce_sum(loss(batch["labels"][name], outputs[name]))
                    for name, loss in losses.items()
                ]
            )
            per_task = per_task / recipe.data.batch_size
            loss = tf.reduce_sum(per_task * state.task_weights)
            if state.model.losses:
                loss += tf.add_n(state.model.losses) / replicas
            scaled = optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, [variable.value for variable in variables])
        if phase.clip_norm:
            # The norm is that of the whole batch's gradient. The optimizer adds the replicas'
            # gradients up once more, hence the division.
            if replicas > 1:
                context = tf.distribute.get_replica_context()
                gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
            limit = optimizer.scale_loss(tf.constant(phase.clip_norm))
            gradients, _ = tf.clip_by_global_norm(gradients, limit)
            gradients = [gradient / replicas for gradient in gradients]
        optimizer.apply(gradients, variables)
        return per_task

    @tf.function
    def train_step(batch):
        for index, seed in enumerate(state.seeds):
            key = tf.stack([tf.cast(state.step, seed.dtype), recipe.seed * 1000 + index])
            seed.assign(tf.cast(key, seed.dtype))
        per_task = strategy.run(replica_step, args=(batch,))
        per_task = strategy.reduce(tf.distribute.ReduceOp.SUM, per_task, axis=None)
        finite = tf.math.is_finite(tf.reduce_sum(per_task * state.task_weights))
        if tf.logical_and(tf.logical_not(finite), state.broken_step < 0):
            state.broken_step.assign(state.step)
        row = tf.concat([per_task, [1.0]], axis=0)
        state.logged.assign_add(row)
        state.validated.assign_add(row)
        state.step.assign_add(1)
        if recipe.average:
            # A young average leans on recent weights, or it would long remember the random ones.
            age = tf.cast(state.step, tf.float32)
            decay = tf.minimum(recipe.average, (1.0 + age) / (10.0 + age))
            for average, weight in zip(state.averages, state.model.weights, strict=True):
                if weight.dtype == "float32":
                    average.assign(decay * average + (1.0 - decay) * weight.value)
                else:
                    average.assign(weight.value)

    return train_step


def training_stream(experiment: Experiment, strategy: tf.distribute.Strategy, start_step: int):
    """Endless batches from `start_step` on, the same ones however often the run was interrupted."""
    recipe = experiment.recipe

    def create(worker: int, workers: int):
        return training_batches(
            experiment.sources("train"),
            experiment.tasks,
            recipe.data.crop,
            recipe.data.augment,
            batch_size=recipe.data.batch_size,
            seed=recipe.seed,
            start_step=start_step,
            worker=(worker, workers),
            cache=recipe.data.cache,
        )

    return iter(distribute(strategy, create, recipe.data.batch_size))


def create_losses(experiment: Experiment) -> dict:
    """Per task `loss(labels, outputs) -> [B]`, as the recipe configures it."""
    configs = {config.name: config for config in experiment.recipe.tasks}
    counts = experiment.label_counts()
    losses = {}
    for task in experiment.tasks:
        options = {}
        if config := configs.get(task.name):
            options = {"loss": config.loss, "label_smoothing": config.label_smoothing}
            if config.balance_labels:
                options["label_weights"] = label_weights(task, counts[task.name])
        losses[task.name] = functools.partial(task_loss, task, **options)
    return losses


def validate(forward, experiment: Experiment) -> dict:
    """Losses and metrics on the validation split of all record sets together.

    Args:
        forward: a model, or what `forward_function` made of one.
        experiment: gives data, tasks and losses.

    Returns:
        `{"loss": weighted sum, "<task>/loss": …, "<task>/<metric>": …}`.
    """
    outputs, labels, transforms = validation_outputs(forward, experiment)
    losses = create_losses(experiment)
    weights = {config.name: config.weight for config in experiment.recipe.tasks}
    majority = experiment.majority()
    values = {"loss": 0.0}
    for task in experiment.tasks:
        loss = losses[task.name](labels[task.name], outputs[task.name])
        values[f"{task.name}/loss"] = float(np.mean(loss))
        values["loss"] += weights.get(task.name, 1.0) * values[f"{task.name}/loss"]
        result = evaluate_task(
            task,
            labels[task.name],
            outputs[task.name],
            majority=majority.get(task.name),
            transforms=transforms,
            crop_size=experiment.input_shape[:2],
        )
        for name, value in result.get("mean", result).items():
            if isinstance(value, float):
                values[f"{task.name}/{name}"] = value
    return values


def validation_outputs(forward, experiment: Experiment):
    """Outputs, labels and crop transforms of all validation examples, joined over record sets."""
    data = experiment.recipe.data
    parts = []
    for source in experiment.sources("validation"):
        batches = evaluation_batches(
            source, experiment.tasks, data.crop, batch_size=data.batch_size
        )
        parts.append(predict_outputs(forward, batches, tasks=experiment.tasks))
    outputs = {
        t.name: np.concatenate([part[0][t.name] for part in parts]) for t in experiment.tasks
    }
    labels = {t.name: np.concatenate([part[1][t.name] for part in parts]) for t in experiment.tasks}
    return outputs, labels, np.concatenate([part[2] for part in parts])


def claim(workdir: Workdir, experiment: Experiment) -> None:
    """Takes the workdir for this experiment, or continues the one that it holds.

    Raises:
        UserError: it holds another recipe's run, or the records have changed since.
    """
    config, metadata = experiment.recipe.to_dict(), experiment.metadata()
    if (workdir.path / "config.json").exists():
        stored = workdir.recipe().to_dict()
        if difference := first_difference(stored, config):
            raise UserError(
                f"workdir {workdir.path} belongs to another run: {difference}; "
                "choose another --workdir or the recipe that it was begun with"
            )
        known = [records["fingerprint"] for records in workdir.metadata()["records"]]
        found = [records["fingerprint"] for records in metadata["records"]]
        if known != found:
            raise UserError(f"workdir {workdir.path}: its records have been built anew since")
        return
    try:
        workdir.path.mkdir(parents=True, exist_ok=True)
        workdir.write_json("metadata.json", metadata)
        workdir.write_json("config.json", config)
    except OSError as error:
        raise UserError(f"workdir {workdir.path} cannot be written: {error.strerror}") from error


def first_difference(stored, asked, where: str = "config") -> str:
    """In words, the first field in which two configurations differ; empty where they do not."""
    if isinstance(stored, dict) and isinstance(asked, dict):
        for key in stored:
            if difference := first_difference(stored[key], asked.get(key), f"{where}.{key}"):
                return difference
        return ""
    if isinstance(stored, list | tuple) and isinstance(asked, list | tuple):
        if len(stored) != len(asked):
            return f"{where} has {len(stored)} entries there and {len(asked)} here"
        for index, (left, right) in enumerate(zip(stored, asked, strict=True)):
            if difference := first_difference(left, right, f"{where}[{index}]"):
                return difference
        return ""
    return "" if stored == asked else f"{where} is {stored!r} there and {asked!r} here"


def train_and_evaluate(recipe: Recipe, path, *, progress: bool = True) -> dict:
    """Trains a recipe in a workdir, or continues there, and returns the best validation row.

    Args:
        recipe: what to train, on which records.
        path: the workdir; made if it is missing.
        progress: show a bar with images per second and the time that is left.

    Raises:
        UserError: recipe, records and workdir do not fit together, or the loss is not finite.
    """
    experiment = Experiment.of(recipe)
    strategy = create_strategy(recipe.strategy)
    workdir = Workdir(path)
    state = TrainingState(experiment, strategy)
    if recipe.warm_start:
        warm_start(state, recipe.warm_start)
    # Only now, so that a recipe that cannot be built leaves no workdir behind.
    if is_chief(strategy):
        claim(workdir, experiment)
    run = _Run(experiment, state, workdir)
    run.restore()
    run.train(progress)
    return run.finish()


def warm_start(state: TrainingState, path: str) -> None:
    """Takes over the weights of another run's model where name and shape agree, and says which."""
    given = {v.path: v for v in Workdir.open(path).load_model().weights}
    taken = 0
    for weight in state.model.weights:
        source = given.get(weight.path)
        if source is not None and source.shape == weight.shape:
            weight.assign(source.numpy())
            taken += 1
    if not taken:
        raise UserError(f"warm start: no weight of {path} fits this model by name and shape")
    for average, weight in zip(state.averages, state.model.weights, strict=False):
        average.assign(weight.value)
    print(f"warm start: {taken} of {len(state.model.weights)} weights from {path}")


class _Run:
    """The loop over the steps of an experiment."""

    def __init__(self, experiment: Experiment, state: TrainingState, workdir: Workdir):
        self.experiment, self.state, self.workdir = experiment, state, workdir
        self.recipe = experiment.recipe
        self.chief = is_chief(state.strategy)
        checkpoints = str(workdir.path / "checkpoints")
        self.chief_checkpoints = checkpoints
        folder = checkpoint_folder(state.strategy, checkpoints)
        self.manager = tf.train.CheckpointManager(state.checkpoint, folder, max_to_keep=2)
        self.rows: list[dict] = []
        self.board = tf.summary.create_noop_writer()
        if self.chief:
            self.board = tf.summary.create_file_writer(str(workdir.path / "tensorboard"))

    def restore(self) -> None:
        latest = tf.train.latest_checkpoint(self.chief_checkpoints)
        if latest:
            try:
                self.state.checkpoint.restore(latest).assert_consumed()
            except (tf.errors.OpError, AssertionError, ValueError) as error:
                reason = str(error).splitlines()[0]
                raise UserError(f"checkpoint {latest} cannot be restored: {reason}") from error
            print(f"continuing from step {int(self.state.step)} ({latest})")
        step = int(self.state.step)
        # Rows beyond the checkpoint will be written again.
        self.rows = [row for row in self.workdir.metrics_log() if row["step"] <= step]
        if self.chief:
            self.workdir.write_metrics_log(self.rows)

    def train(self, progress: bool) -> None:
        state, recipe, ends = self.state, self.recipe, self.experiment.phase_ends
        step = int(state.step)
        total = ends[-1]
        if step >= total:
            return
        every = max(1, round(recipe.evaluate_every * self.experiment.steps_per_epoch))
        batches = training_stream(self.experiment, state.strategy, step)
        bar = tqdm(
            total=total * recipe.data.batch_size,
            initial=step * recipe.data.batch_size,
            unit="image",
            unit_scale=True,
            disable=not (progress and self.chief),
            dynamic_ncols=True,
            smoothing=0.05,
        )
        with bar:
            while step < total:
                index = self.experiment.phase_at(step)
                train_step = create_train_step(state, self.experiment, index)
                bar.set_description(recipe.phases[index].name)
                while step < ends[index]:
                    train_step(next(batches))
                    step += 1
                    bar.update(recipe.data.batch_size)
                    validating = step % every == 0 or step == total
                    if validating or step % recipe.log_every == 0 or step == ends[index]:
                        self._log(step, index, bar)
                    if validating:
                        self._validate(step, index, bar)
                    if validating or step % recipe.checkpoint_every == 0 or step == ends[index]:
                        self.manager.save(checkpoint_number=step)

    def _log(self, step: int, phase: int, bar) -> None:
        self._stop_if_broken()
        sums = self.state.logged.numpy()
        self.state.logged.assign(np.zeros_like(sums))
        if not sums[-1]:
            return
        means = sums[:-1] / sums[-1]
        losses = {
            f"train/{task.name}/loss": float(mean)
            for task, mean in zip(self.experiment.tasks, means, strict=True)
        }
        total = float(np.sum(means * self.state.task_weights.numpy()))
        rate = self.state.optimizers[phase].learning_rate
        row = {"train/loss": total, **losses, "train/learning_rate": float(rate)}
        self._write(step, phase, row)
        bar.set_postfix(loss=f"{total:.4f}")

    def _validate(self, step: int, phase: int, bar) -> None:
        state = self.state
        sums = state.validated.numpy()
        state.validated.assign(np.zeros_like(sums))
        state.update_evaluated_model()
        values = validate(state.forward, self.experiment)
        row = {f"validation/{name}": value for name, value in values.items()}
        for task, mean in zip(self.experiment.tasks, sums[:-1] / max(sums[-1], 1), strict=True):
            row[f"epoch/{task.name}/loss"] = float(mean)
        self._write(step, phase, row)
        score = self._score(values)
        if score < float(state.best):
            state.best.assign(score)
            state.best_step.assign(step)
            if self.chief:
                self.workdir.save_model(state.evaluated_model)
        best = abs(float(state.best))
        shown = ", ".join(f"{key} {values[key]:.4f}" for key in self._shown(values))
        bar.write(f"step {step}: {shown}; best {self.recipe.best_metric} {best:.4f}")
        self._stop_tasks()

    def _score(self, values: dict) -> float:
        """The recipe's best metric, turned so that less is better."""
        metric = self.recipe.best_metric
        if metric not in values:
            raise UserError(
                f"best_metric {metric!r} is not measured; there are: {', '.join(sorted(values))}"
            )
        lower = metric.rsplit("/", 1)[-1] in LOWER_IS_BETTER
        return values[metric] if lower else -values[metric]

    def _shown(self, values: dict) -> list[str]:
        endings = ("/accuracy", "/balanced_accuracy", "/nme", "/mae")
        return ["loss"] + [name for name in values if name.endswith(endings)]

    def _stop_tasks(self) -> None:
        validations = [row for row in self.rows if "validation/loss" in row]
        for index, config in enumerate(self.recipe.tasks):
            training = [row[f"epoch/{config.name}/loss"] for row in validations]
            validation = [row[f"validation/{config.name}/loss"] for row in validations]
            rule = (config.stop_window, config.stop_threshold, config.stop_scale)
            weights = self.state.task_weights.numpy()
            if weights[index] and should_stop(training, validation, *rule):
                weights[index] = 0.0
                self.state.task_weights.assign(weights)
                print(f"step {int(self.state.step)}: task {config.name} is stopped")

    def _stop_if_broken(self) -> None:
        step = int(self.state.broken_step)
        if step >= 0:
            good = tf.train.latest_checkpoint(self.chief_checkpoints) or "none was written yet"
            raise UserError(f"the loss of step {step} is not finite; last good checkpoint: {good}")

    def _write(self, step: int, phase: int, values: dict) -> None:
        row = {"step": step, "phase": self.recipe.phases[phase].name, **values}
        self.rows.append(row)
        if self.chief:
            self.workdir.append_metrics(row)
        with self.board.as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(name, value)

    def finish(self) -> dict:
        """Chooses temperatures and thresholds on validation and writes the model card."""
        best_step = int(self.state.best_step)
        best = next(r for r in self.rows if r["step"] == best_step and "validation/loss" in r)
        if not self.chief:
            return best
        model = self.workdir.load_model()
        outputs, labels, _ = validation_outputs(model, self.experiment)
        chosen = {
            task.name: calibrate(task, labels[task.name], outputs[task.name])
            for task in self.experiment.tasks
        }
        self.workdir.write_json("calibration.json", chosen)
        metadata = {**self.experiment.metadata(), "best": best, "steps": int(self.state.step)}
        self.workdir.write_json("metadata.json", metadata)
        card = model_card(self.recipe, metadata, model.count_params())
        self.workdir.write_text("model_card.md", card)
        return best
