"""Training: one loop for every recipe, from a laptop's processor to several machines.

The loop is written by hand around a Keras model and Keras optimizers, because in this Keras
`Model.fit` does not run under `MultiWorkerMirroredStrategy`. A run is a function of its recipe
and its records: the batch and the dropout of a step follow from (seed, step), so that a run that
was killed ends as the one that was not.
"""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from data_pipelines.errors import UserError
from data_pipelines.files import naming
from data_pipelines.input.batches import explain_failure
from data_pipelines.input.stream import read_failures
from data_pipelines.progress import progress_bar
from faceattr_tf.configs.base import LINEAR_SVM, Phase, Recipe
from faceattr_tf.evaluation.calibration import calibrate
from faceattr_tf.evaluation.inference import forward_function
from faceattr_tf.evaluation.metrics import METRICS, score_of, shown_in
from faceattr_tf.evaluation.on_validation import is_kept
from faceattr_tf.experiment import Experiment
from faceattr_tf.features.batches import Features
from faceattr_tf.features.extract import for_run
from faceattr_tf.features.linear import check_linear_svm, fit_heads
from faceattr_tf.models.create import load_recipe_weights, whole_model
from faceattr_tf.training.batches import check_bottlenecks, see_the_same, training_stream
from faceattr_tf.training.distribution import (
    check_agreement,
    checkpoint_folder,
    create_strategy,
    is_chief,
    lost_machines_named,
)
from faceattr_tf.training.model_card import model_card
from faceattr_tf.training.objective import named_losses
from faceattr_tf.training.resumption import as_begun, check_claim, claim
from faceattr_tf.training.slices import Sliced, read_slices
from faceattr_tf.training.state import TrainingState, warm_start
from faceattr_tf.training.step import create_train_step
from faceattr_tf.training.task_stopping import should_stop
from faceattr_tf.training.validation import (
    check_validation,
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
    sliced = read_slices(experiment)
    check_validation(experiment, sliced)
    for phase in recipe.phases:
        if phase.optimizer == LINEAR_SVM:
            check_linear_svm(experiment, phase)
    if recipe.data.bottlenecks.use and recipe.warm_start:
        raise UserError(
            "data.bottlenecks.use learns from what model.weights give: expected "
            "--config.model.weights=WORKDIR/model.keras and no warm_start"
        )
    features = for_run(experiment, progress=progress) if recipe.data.bottlenecks.use else {}
    width = features["train"][0].features.width if features else 0
    state = TrainingState(experiment, strategy, features=width, sliced=sliced)
    if recipe.model.pretrained and (recipe.model.branches or not features):
        load_recipe_weights(state.model, experiment)
        state.restart_averages()
    if recipe.warm_start:
        warm_start(state, recipe)
    for phase in recipe.phases:
        if phase.bottlenecks and not features:
            check_bottlenecks(state.model, experiment, phase)
    # Only now, so that a recipe that cannot be built leaves no workdir behind.
    if is_chief(strategy):
        claim(workdir, experiment, extend=extend)
    if len(experiment.record_sets) > 1:
        print(experiment.describe_epoch())
    if sliced:
        print(f"slices by {recipe.slices.by}: {sliced.describe(state.slices)}")
    with lost_machines_named(strategy):
        run = _Run(experiment, state, workdir, features, sliced)
        run.restore()
        run.train(progress)
        return run.finish()


class _Run:
    """The loop over the steps of an experiment."""

    def __init__(
        self,
        experiment: Experiment,
        state: TrainingState,
        workdir: Workdir,
        features: Mapping[str, Sequence[Features]],
        sliced: Sliced | None,
    ):
        self.experiment, self.state, self.workdir = experiment, state, workdir
        self.features, self.sliced = features, sliced
        self.recipe = experiment.recipe
        self.chief = is_chief(state.strategy)
        self.best_name = TOP if features else MODEL
        checkpoints = str(workdir.path / "checkpoints")
        self.chief_checkpoints = checkpoints
        folder = checkpoint_folder(state.strategy, checkpoints)
        self.manager = tf.train.CheckpointManager(state.checkpoint, folder, max_to_keep=2)
        self.stream: tuple[Phase, Iterator] | None = None
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
            1, round(recipe.evaluate_epochs * self.experiment.steps_per_epoch)
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
                train_step, batches = self._steps(index, step, progress)
                bar.set_description(recipe.phases[index].name)
                while step < ends[index]:
                    train_step(self._next(batches))
                    step += 1
                    bar.update(recipe.data.batch_size)
                    phase_ends = step == ends[index]
                    validating = step % every == 0 or phase_ends
                    if validating or step % recipe.log_steps == 0:
                        self._log(step, index, bar)
                    if validating:
                        self._validate(step, index, bar)
                    keeping = validating and not recipe.evaluate_steps
                    if keeping or phase_ends or step % recipe.checkpoint_steps == 0:
                        # What follows a loss that is not finite must not become the last good one.
                        self._stop_if_broken()
                        with naming(self.workdir.path / "checkpoints"):
                            self.manager.save(checkpoint_number=step)

    def _steps(self, index: int, step: int, progress: bool):
        """What makes a step of a phase, and what is given to it from `step` on."""
        features, phase = self.features.get("train", ()), self.recipe.phases[index]
        before, self.stream = self.stream, None
        if phase.optimizer == LINEAR_SVM:
            held = self.features["validation"]

            def fit(_):
                model, tasks = self.state.model, self.experiment.tasks
                folder = self.workdir.path / "machines" if self.chief else None
                fit_heads(model, tasks, phase, features, held, folder=folder, progress=progress)
                self.state.restart_averages()
                self.state.step.assign_add(1)

            return fit, itertools.repeat(None)
        if before and see_the_same(self.experiment, before[0], phase):
            batches = before[1]  # It stands at this step, and making another takes a second.
        else:
            more = {"sliced": self.sliced, "progress": progress}
            batches = training_stream(self.experiment, self.state.strategy, step, features, **more)
        self.stream = phase, batches
        return create_train_step(self.state, self.experiment, index, top=bool(features)), batches

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
        names = [*(task.name for task in self.experiment.tasks), *self.state.losses]
        losses = {
            f"train/{name}/loss": float(mean)
            for name, mean, steps in zip(names, means, sums[1], strict=True)
            if steps
        }
        weights = np.append(
            self.experiment.task_weights(self.recipe.phases[phase]) * self.state.active.numpy(),
            list(named_losses(self.recipe).values()),
        )
        total = float(np.sum(means * weights))
        rate = self.state.optimizers[phase].learning_rate
        row = {
            "train/loss": total,
            **losses,
            "train/learning_rate": float(keras.ops.convert_to_numpy(rate)),
        }
        if self.sliced:
            weights = keras.ops.convert_to_numpy(self.state.slices.of_slices())
            row |= {
                f"slices/{n}": float(w) for n, w in zip(self.sliced.names, weights, strict=True)
            }
        self._write(step, phase, row)
        bar.set_postfix(loss=f"{total:.4f}")

    def _validate(self, step: int, phase: int, bar) -> None:
        state = self.state
        sums = state.validated.numpy()
        state.validated.assign(np.zeros_like(sums))
        state.update_evaluated_model()
        values = validate(state.forward, self.experiment, self.validation, self.sliced)
        if not np.isfinite(values["loss"]):
            self._stop(f"the validation loss at step {step}")
        row = {f"validation/{name}": value for name, value in values.items()}
        for task, total, steps in zip(self.experiment.tasks, *sums, strict=False):
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
        metric = METRICS[self.recipe.best_metric.rpartition("/")[2]]
        best = metric.sign * float(state.best.numpy())
        shown = ", ".join(f"{key} {values[key]:.4f}" for key in ("loss", *shown_in("log", values)))
        bar.write(f"step {step}: {shown}; best {self.recipe.best_metric} {best:.4f}")
        self._stop_tasks()

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
        forward = forward_function(model)  # compiled once for all record sets
        outputs, labels, _ = validation_outputs(forward, self.experiment, self.validation)
        if self.features:
            model = whole_model(model, self.experiment)
            self.workdir.save_model(model)
        chosen = {
            task.name: calibrate(task, labels[task.name], outputs[task.name])
            for task in self.experiment.tasks
        }
        kept = (task.name for task in self.experiment.tasks if is_kept(task))
        self.workdir.write_validation({name: (labels[name], outputs[name]) for name in kept})
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
