"""Training: one loop for every recipe, from a laptop's processor to several machines.

The loop is written by hand around a Keras model and Keras optimizers, because in this Keras
`Model.fit` does not run under `MultiWorkerMirroredStrategy`. A run is a function of its recipe
and its records: the batch and the dropout of a step follow from (seed, step), so that a run that
was killed ends as the one that was not.
"""

import functools
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from data_pipelines.errors import UserError
from data_pipelines.input.augment import Augment
from data_pipelines.input.batches import explain_failure, training_batches
from data_pipelines.input.stream import read_failures
from data_pipelines.progress import progress_bar
from faceattr_tf.configs.base import Phase, Recipe
from faceattr_tf.evaluation.calibration import calibrate
from faceattr_tf.evaluation.metrics import score_of
from faceattr_tf.experiment import Experiment
from faceattr_tf.features.batches import Features, feature_batches
from faceattr_tf.features.extract import for_new_layers, for_run
from faceattr_tf.models.auxiliary import auxiliary_name
from faceattr_tf.models.create import load_pretrained, whole_model
from faceattr_tf.models.heads import NEW_LAYERS, scale_pixels
from faceattr_tf.models.stages import classifier_of, new_layers_of
from faceattr_tf.training.distribution import (
    check_agreement,
    checkpoint_folder,
    create_strategy,
    distribute,
    is_chief,
)
from faceattr_tf.training.model_card import model_card
from faceattr_tf.training.optimizers import decayed, rate_factors
from faceattr_tf.training.resumption import as_begun, check_claim, claim
from faceattr_tf.training.state import TrainingState, freeze, warm_start
from faceattr_tf.training.task_stopping import should_stop
from faceattr_tf.training.validation import (
    check_validation,
    create_losses,
    validate,
    validation_batches,
    validation_outputs,
)
from faceattr_tf.workdir import MODEL, TOP, Workdir


def train_and_evaluate(
    recipe: Recipe, path, *, progress: bool = True, extend: bool = False
) -> dict:
    """Trains a recipe in a workdir, or continues there, and returns the best validation row.

    Args:
        recipe: what to train, on which records.
        path: the workdir; made if it is missing.
        progress: show a bar with images per second and the time that is left.
        extend: go on with a run whose last phase has become longer since it was begun; its best
            model stays the best until a better one comes.

    Raises:
        UserError: recipe, records and workdir do not fit together, or the loss is not finite.
    """
    workdir = Workdir(path)
    experiment = Experiment.of(as_begun(recipe, workdir))
    check_claim(workdir, experiment, extend=extend)
    recipe = experiment.recipe
    # Several machines have to be joined before TensorFlow computes anything.
    strategy = create_strategy(recipe.strategy)
    check_agreement(strategy, recipe.precision)
    check_validation(experiment)
    features = for_run(experiment, progress=progress) if recipe.data.bottlenecks.use else {}
    width = features["train"][0].features.width if features else 0
    state = TrainingState(experiment, strategy, features=width)
    if recipe.model.weights and not features:
        load_pretrained(state.model, recipe.model)
        state.restart_averages()
    if recipe.warm_start:
        warm_start(state, recipe.warm_start)
    for phase in recipe.phases:
        if phase.bottlenecks and not features:
            check_bottlenecks(state.model, experiment, phase)
    # Only now, so that a recipe that cannot be built leaves no workdir behind.
    if is_chief(strategy):
        claim(workdir, experiment, extend=extend)
    run = _Run(experiment, state, workdir, features)
    run.restore()
    run.train(progress)
    return run.finish()


def create_train_step(
    state: TrainingState, experiment: Experiment, phase_index: int, *, top: bool = False
):
    """The compiled step of a phase: `batch -> None`; losses are added up in `state`.

    A task without weight in the phase is left out, and with it whatever computes only that task.

    Args:
        state: what is changed.
        experiment: gives recipe, tasks and losses.
        phase_index: of the recipe's phases.
        top: the model consists of heads alone, as in a run on bottlenecks.
    """
    recipe = experiment.recipe
    phase = recipe.phases[phase_index]
    strategy, optimizer = state.strategy, state.optimizers[phase_index]
    variables = freeze(state.model, phase)
    values = [variable.value for variable in variables]
    factors = rate_factors(state.model, variables, phase)
    replicas = strategy.num_replicas_in_sync
    losses = create_losses(experiment)
    weights = tf.constant(experiment.task_weights(phase))
    learned = [weight != 0 for weight in experiment.task_weights(phase)]
    forward = forward_of(state.model, experiment, phase, top=top)

    def task_losses(labels, outputs, name_of=lambda name: name):
        found = [
            tf.reduce_sum(loss(labels[name], outputs[name_of(name)])) if learns else 0.0
            for (name, loss), learns in zip(losses.items(), learned, strict=True)
        ]
        return tf.stack(found) / recipe.data.batch_size

    def forward_and_backward(batch, parts):
        with tf.GradientTape() as tape:
            outputs = forward(batch["image"])
            per_task = total = task_losses(batch["labels"], outputs)
            if recipe.model.auxiliary_weight:
                auxiliary = task_losses(batch["labels"], outputs, auxiliary_name)
                total = per_task + recipe.model.auxiliary_weight * auxiliary
            loss = tf.reduce_sum(total * weights * state.active)
            if state.model.losses:
                loss += tf.add_n(state.model.losses) / tf.cast(replicas * parts, tf.float32)
            scaled = optimizer.scale_loss(loss)
        return [per_task, *tape.gradient(scaled, values)]

    def replica_step(batch):
        batch = {"image": batch["image"], "labels": batch["labels"]}
        zeros = [tf.zeros(len(losses)), *map(tf.zeros_like, values)]
        per_task, *gradients = sum_over_parts(
            forward_and_backward, batch, recipe.data.micro_batch, zeros
        )
        learning = [v for v, g in zip(variables, gradients, strict=True) if g is not None]
        gradients = [gradient for gradient in gradients if gradient is not None]
        if phase.l2:
            factor = optimizer.scale_loss(tf.constant(phase.l2 / replicas))
            gradients = [
                gradient + factor * variable.value if decays else gradient
                for gradient, variable, decays in zip(
                    gradients, learning, decayed(learning), strict=True
                )
            ]
        if phase.clip_norm:
            # The norm is that of the whole batch's gradient. The optimizer adds the replicas'
            # gradients up once more, hence the division.
            if replicas > 1:
                context = tf.distribute.get_replica_context()
                gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
            limit = optimizer.scale_loss(tf.constant(phase.clip_norm))
            gradients, _ = tf.clip_by_global_norm(gradients, limit)
            gradients = [gradient / replicas for gradient in gradients]
        optimizer.apply(gradients, learning)
        return per_task

    @tf.function(autograph=False)
    def train_step(batch):
        for index, seed in enumerate(state.seeds):
            key = tf.stack([tf.cast(state.step, seed.dtype), recipe.seed * 1000 + index])
            seed.assign(tf.cast(key, seed.dtype))
        slowed = [(value, f) for value, f in zip(values, factors, strict=True) if f != 1.0]
        before = [tf.identity(value) for value, _ in slowed]
        per_task = strategy.run(replica_step, args=(batch,))
        # Every optimizer's change is proportional to its rate: a part of the change is that of a
        # lower rate.
        for (value, factor), old in zip(slowed, before, strict=True):
            value.assign(old + factor * (value - old))
        per_task = strategy.reduce(tf.distribute.ReduceOp.SUM, per_task, axis=None)
        finite = tf.math.is_finite(tf.reduce_sum(per_task * weights * state.active))
        first = tf.logical_and(tf.logical_not(finite), state.broken_step < 0)
        state.broken_step.assign(tf.where(first, state.step, state.broken_step))
        row = tf.stack([per_task, tf.cast(learned, tf.float32)])
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


def sum_over_parts(compute, batch, size: int, zeros: list) -> list:
    """Sums what `compute` gives for the parts of a batch, one part after the other.

    Args:
        compute: `(part, number of parts) -> list of tensors`, each a sum over the part's examples,
            or None for what the part has no influence on.
        batch: structure of tensors `[B, ...]`.
        size: examples of a part, by which B can be divided; 0 for the whole batch at once.
        zeros: tensors of the shapes of the sums.

    Returns:
        The sums; None where there is none.
    """
    first = keras.tree.flatten(batch)[0]
    if not size or first.shape[0] == size:
        return compute(batch, 1)
    parts = (first.shape[0] or tf.shape(first)[0]) // size
    absent = []

    def part(tensor, index):
        rest = tensor.shape[1:]
        return tf.slice(tensor, [index * size] + [0] * len(rest), [size, *rest])

    def add(index, sums):
        one = keras.tree.map_structure(lambda tensor: part(tensor, index), batch)
        found = compute(one, parts)
        absent[:] = [value is None for value in found]
        added = [
            total if value is None else total + value
            for total, value in zip(sums, found, strict=True)
        ]
        return index + 1, added

    _, sums = tf.while_loop(
        lambda index, sums: index < parts, add, (0, zeros), parallel_iterations=1
    )
    return [None if none else total for none, total in zip(absent, sums, strict=True)]


def forward_of(model: keras.Model, experiment: Experiment, phase: Phase, *, top: bool = False):
    """What a phase computes: `images -> {task: outputs}` of the tasks with weight, for training.

    In a phase on bottlenecks these stand in for the images.
    """
    if phase.bottlenecks and not top:
        return functools.partial(new_layers_of(model), training=True)
    if phase.classifier_sees == "transformed":
        return functools.partial(model, training=True)
    classifier = classifier_of(model, experiment.tasks)
    return lambda images: classifier(scale_pixels(images), training=True)


def check_bottlenecks(model: keras.Model, experiment: Experiment, phase: Phase) -> None:
    """Makes sure that what the layers before the new ones give is the same all through a phase.

    Raises:
        UserError: it is not, or not known when the run begins.
    """
    recipe = experiment.recipe
    freeze(model, phase)
    learning = [layer.name for layer in model.layers if layer.trainable and layer.weights]
    old = [name for name in learning if not name.startswith(NEW_LAYERS)]
    reason = ""
    if old:
        reason = f"its layer {old[0]!r} trains; expected trainable '^(head|aux)_'"
    elif experiment.augment(phase) != Augment():
        reason = "its images change at random"
    elif recipe.warm_start:
        reason = "the layers before the new ones come from another run"
    elif not all(one.bottlenecks for one in recipe.phases[: recipe.phases.index(phase)]):
        reason = "an earlier phase changes the layers before the new ones"
    if reason:
        raise UserError(f"phase {phase.name!r} cannot train on bottlenecks: {reason}")


def training_stream(
    experiment: Experiment,
    strategy: tf.distribute.Strategy,
    start_step: int,
    features: Sequence[Features] = (),
    *,
    progress: bool = True,
):
    """Endless batches from `start_step` on, the same ones however often the run was interrupted.

    They are those of the phase that the step belongs to.

    Args:
        experiment: gives data, tasks and phases.
        strategy: over which replicas batches are distributed.
        start_step: counted from the start of the run.
        features: of a run on bottlenecks, those of every training source.
        progress: show a bar where features have to be computed first.
    """
    recipe = experiment.recipe
    phase = recipe.phases[experiment.phase_at(start_step)]
    aligned, disturb = experiment.aligned, experiment.disturb
    crop, augment = experiment.crop, experiment.augment(phase)
    if phase.bottlenecks and not features:
        features = for_new_layers(experiment, progress=progress)
    if phase.classifier_sees == "aligned":
        crop, disturb = aligned, None

    def create(worker: int, workers: int):
        if features:
            return feature_batches(
                features,
                [source.weight for source in experiment.sources("train")],
                batch_size=recipe.data.batch_size,
                seed=recipe.seed,
                start_step=start_step,
                worker=(worker, workers),
            )
        return training_batches(
            experiment.sources("train"),
            experiment.tasks,
            crop,
            augment,
            batch_size=recipe.data.batch_size,
            seed=recipe.seed,
            start_step=start_step,
            worker=(worker, workers),
            cache=recipe.data.cache,
            aligned=aligned,
            disturb=disturb,
        )

    return iter(distribute(strategy, create, recipe.data.batch_size))


class _Run:
    """The loop over the steps of an experiment."""

    def __init__(
        self,
        experiment: Experiment,
        state: TrainingState,
        workdir: Workdir,
        features: Mapping[str, Sequence[Features]],
    ):
        self.experiment, self.state, self.workdir = experiment, state, workdir
        self.features = features
        self.recipe = experiment.recipe
        self.chief = is_chief(state.strategy)
        self.best_name = TOP if features else MODEL
        checkpoints = str(workdir.path / "checkpoints")
        self.chief_checkpoints = checkpoints
        folder = checkpoint_folder(state.strategy, checkpoints)
        self.manager = tf.train.CheckpointManager(state.checkpoint, folder, max_to_keep=2)
        self.rows: list[dict] = []
        self.board = tf.summary.create_noop_writer()
        if self.chief:
            self.board = tf.summary.create_file_writer(str(workdir.path / "tensorboard"))

    @functools.cached_property
    def validation(self) -> list:
        """The batches of the validation split."""
        return validation_batches(self.experiment, self.features.get("validation", ()))

    def restore(self) -> None:
        latest = tf.train.latest_checkpoint(self.chief_checkpoints)
        if latest:
            try:
                self.state.checkpoint.restore(latest).assert_consumed()
            except Exception as error:  # What damage raises depends on where it sits.
                reason = str(error).splitlines()[0]
                raise UserError(f"checkpoint {latest} cannot be restored: {reason}") from error
            print(f"continuing from step {int(self.state.step.numpy())} ({latest})")
        step = int(self.state.step.numpy())
        # Rows beyond the checkpoint will be written again.
        self.rows = [row for row in self.workdir.metrics_log() if row["step"] <= step]
        if self.chief:
            self.workdir.write_metrics_log(self.rows)

    def train(self, progress: bool) -> None:
        state, recipe, ends = self.state, self.recipe, self.experiment.phase_ends
        step = int(state.step.numpy())
        total = ends[-1]
        if step >= total:
            return
        every = recipe.evaluate_steps or max(
            1, round(recipe.evaluate_every * self.experiment.steps_per_epoch)
        )
        bar = progress_bar(
            total * recipe.data.batch_size,
            "image",
            show=progress and self.chief,
            initial=step * recipe.data.batch_size,
            unit_scale=True,
            smoothing=0.05,
        )
        with bar:
            while step < total:
                index = self.experiment.phase_at(step)
                features = self.features.get("train", ())
                batches = training_stream(
                    self.experiment, state.strategy, step, features, progress=progress
                )
                train_step = create_train_step(state, self.experiment, index, top=bool(features))
                bar.set_description(recipe.phases[index].name)
                while step < ends[index]:
                    train_step(self._next(batches))
                    step += 1
                    bar.update(recipe.data.batch_size)
                    phase_ends = step == ends[index]
                    validating = step % every == 0 or phase_ends
                    if validating or step % recipe.log_every == 0:
                        self._log(step, index, bar)
                    if validating:
                        self._validate(step, index, bar)
                    keeping = validating and not recipe.evaluate_steps
                    if keeping or phase_ends or step % recipe.checkpoint_every == 0:
                        # What follows a loss that is not finite must not become the last good one.
                        self._stop_if_broken()
                        self.manager.save(checkpoint_number=step)

    def _next(self, batches):
        try:
            return next(batches)
        except read_failures() as error:
            raise explain_failure(error, self.experiment.sources("train")) from error

    def _log(self, step: int, phase: int, bar) -> None:
        self._stop_if_broken()
        sums = self.state.logged.numpy()
        self.state.logged.assign(np.zeros_like(sums))
        if not sums[1].any():
            return
        means = sums[0] / np.maximum(sums[1], 1)
        losses = {
            f"train/{task.name}/loss": float(mean)
            for task, mean, steps in zip(self.experiment.tasks, means, sums[1], strict=True)
            if steps
        }
        weights = self.experiment.task_weights(self.recipe.phases[phase])
        total = float(np.sum(means * weights * self.state.active.numpy()))
        rate = self.state.optimizers[phase].learning_rate
        row = {
            "train/loss": total,
            **losses,
            "train/learning_rate": float(keras.ops.convert_to_numpy(rate)),
        }
        self._write(step, phase, row)
        bar.set_postfix(loss=f"{total:.4f}")

    def _validate(self, step: int, phase: int, bar) -> None:
        state = self.state
        sums = state.validated.numpy()
        state.validated.assign(np.zeros_like(sums))
        state.update_evaluated_model()
        values = validate(state.forward, self.experiment, self.validation)
        if not np.isfinite(values["loss"]):
            self._stop(f"the validation loss at step {step}")
        row = {f"validation/{name}": value for name, value in values.items()}
        for task, total, steps in zip(self.experiment.tasks, *sums, strict=True):
            if steps:
                row[f"epoch/{task.name}/loss"] = float(total / steps)
        self._write(step, phase, row)
        score = score_of(values, self.recipe.best_metric)
        # Where the metric is not defined yet, some model is better than none.
        if score < float(state.best.numpy()) or int(state.best_step.numpy()) < 0:
            state.best.assign(score)
            state.best_step.assign(step)
            if self.chief:
                self.workdir.save_model(state.evaluated_model, self.best_name)
        best = abs(float(state.best.numpy()))
        shown = ", ".join(f"{key} {values[key]:.4f}" for key in self._shown(values))
        bar.write(f"step {step}: {shown}; best {self.recipe.best_metric} {best:.4f}")
        self._stop_tasks()

    def _shown(self, values: dict) -> list[str]:
        endings = ("/accuracy", "/balanced_accuracy", "/nme", "/mae", "/corner_error")
        return ["loss"] + [name for name in values if name.endswith(endings)]

    def _stop_tasks(self) -> None:
        validations = [row for row in self.rows if "validation/loss" in row]
        for index, config in enumerate(self.experiment.task_configs):
            rows = [row for row in validations if f"epoch/{config.name}/loss" in row]
            training = [row[f"epoch/{config.name}/loss"] for row in rows]
            validation = [row[f"validation/{config.name}/loss"] for row in rows]
            rule = (config.stop_window, config.stop_threshold, config.stop_scale)
            active = self.state.active.numpy()
            if active[index] and should_stop(training, validation, *rule):
                active[index] = 0.0
                self.state.active.assign(active)
                print(f"step {int(self.state.step.numpy())}: task {config.name} is stopped")

    def _stop_if_broken(self) -> None:
        step = int(self.state.broken_step.numpy())
        if step >= 0:
            self._stop(f"the loss of step {step}")

    def _stop(self, what: str) -> None:
        good = tf.train.latest_checkpoint(self.chief_checkpoints) or "none was written yet"
        raise UserError(f"{what} is not finite; last good checkpoint: {good}")

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
        best_step = int(self.state.best_step.numpy())
        best = next(r for r in self.rows if r["step"] == best_step and "validation/loss" in r)
        if not self.chief:
            return best
        model = self.workdir.load_model(self.best_name)
        outputs, labels, _ = validation_outputs(model, self.experiment, self.validation)
        if self.features:
            model = whole_model(model, self.experiment)
            self.workdir.save_model(model)
        chosen = {
            task.name: calibrate(task, labels[task.name], outputs[task.name])
            for task in self.experiment.tasks
        }
        self.workdir.write_json("calibration.json", chosen)
        metadata = {
            **self.experiment.metadata(),
            "best": best,
            "steps": int(self.state.step.numpy()),
        }
        self.workdir.write_json("metadata.json", metadata)
        card = model_card(self.recipe, metadata, model.count_params())
        self.workdir.write_text("model_card.md", card)
        return best
