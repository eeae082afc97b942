"""What a run would be: tasks, parameters, arithmetic, memory, time, and whether it can learn."""

import collections
import dataclasses
import time

import numpy as np
import tensorflow as tf

from data_pipelines.input.augment import Augment
from data_pipelines.tasks import list_labels
from faceattr_tf.configs.base import LINEAR_SVM, Recipe
from faceattr_tf.experiment import Experiment
from faceattr_tf.training.batches import training_stream
from faceattr_tf.training.cost import memory, multiply_adds
from faceattr_tf.training.distribution import create_strategy
from faceattr_tf.training.slices import read_slices
from faceattr_tf.training.state import TrainingState
from faceattr_tf.training.step import create_train_step

STEPS = 40
"""Steps on the one batch that is over-fitted."""

SECONDS = 60
"""After so many no further step begins: a large network needs minutes for all of them."""


def dry_run(recipe: Recipe) -> dict:
    """Prints what a recipe would do, and over-fits one batch without writing anything.

    Returns:
        `parameters`, `multiply_adds` per image, `bytes`, `seconds`, `losses` of the one batch.
    """
    experiment = Experiment.of(recipe)
    total = experiment.phase_ends[-1]
    # Bottlenecks are computed once per image; training on them is a matter of seconds.
    begins = (0, *experiment.phase_ends)
    phases = zip(recipe.phases, begins, experiment.phase_ends, strict=False)
    on_images = sum(end - begin for phase, begin, end in phases if not phase.bottlenecks)
    print(f"recipe {recipe.name}")
    for records, source in zip(experiment.record_sets, experiment.sources("train"), strict=True):
        count = records.count("train", *recipe.validation_rule)
        print(f"  data   {records.name}: {count:,} training examples, weight {source.weight:g}")
    if len(experiment.record_sets) > 1:
        print(f"  data   {experiment.describe_epoch()}")
    for task in experiment.tasks:
        print(f"  task   {task.name} ({task.kind}): {list_labels(task.labels)}")
    for phase, end in zip(recipe.phases, experiment.phase_ends, strict=True):
        print(f"  phase  {phase.name}: to step {end:,}, {phase.optimizer}, {phase.learning_rate:g}")

    trial = _trial(recipe, total)
    frozen, phase = recipe.data.bottlenecks.use, trial.phases[0]
    experiment = Experiment.of(trial)
    sliced = read_slices(experiment)
    state = TrainingState(experiment, create_strategy(recipe.strategy), sliced=sliced)
    if sliced:
        print(f"  slices by {recipe.slices.by}: {sliced.describe(state.slices)}")
    batch = next(training_stream(experiment, state.strategy, 0, sliced=sliced))
    model = state.evaluated_model
    result = {
        "parameters": model.count_params(),
        "multiply_adds": multiply_adds(model),
        "bytes": memory(
            model, state.optimizers[0], recipe.data.micro_batch or recipe.data.batch_size
        ),
    }
    kinds = collections.Counter(type(layer).__name__ for layer in model.layers if layer.weights)
    print(
        f"  model  {recipe.model.name}: {result['parameters']:,} parameters in "
        + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    )
    print(
        f"  work   {result['multiply_adds'] / 1e6:,.0f} million multiply-adds per image, forward: "
        f"{result['multiply_adds'] / 5e8:.2f} GFLOP, multiplications and additions counted apart"
    )
    print(f"  memory {result['bytes'] / 2**20:,.0f} MiB for weights, optimizer and activations")
    step = create_train_step(state, experiment, 0)
    losses, begin = [], time.perf_counter()
    for index in range(STEPS):
        if index > 3 and time.perf_counter() - begin > SECONDS:
            break
        if index == 2:  # The first ones compile.
            begin = time.perf_counter()
        state.logged.assign(tf.zeros_like(state.logged))
        step(batch)
        sums = state.logged.numpy()
        losses.append(float(np.sum(sums[0] * experiment.task_weights(phase))))
    seconds = (time.perf_counter() - begin) / (len(losses) - 2)
    passes = sum(s.count for s in experiment.sources("train")) / recipe.data.batch_size
    passes *= recipe.data.bottlenecks.copies + 1
    times, what = (passes, "bottlenecks") if frozen else (on_images, f"{on_images:,} steps")
    result |= {"seconds": seconds * times, "losses": losses}
    print(
        f"  time   {recipe.data.batch_size / seconds:,.0f} images/s, {seconds * times / 60:,.1f} "
        f"minutes for {what} on this machine, without reading and validation"
    )
    print(f"  one batch, {len(losses)} steps: loss {losses[0]:.4f} to {losses[-1]:.4f}")
    return result


def _trial(recipe: Recipe, steps: int) -> Recipe:
    """The recipe for over-fitting: one unchanging batch, a constant rate, everything trains."""
    phase = recipe.phases[-1]
    phase = dataclasses.replace(
        phase,
        # What fits all examples at once has no single batch to show.
        optimizer="adamw" if phase.optimizer == LINEAR_SVM else phase.optimizer,
        schedule="constant",
        steps=steps,
        trainable="^(head|branch)_" if recipe.data.bottlenecks.use else "",
        layer_decay=1.0,
        bottlenecks=False,
    )
    data = dataclasses.replace(recipe.data, augment=Augment(), cache=False, service="")
    return dataclasses.replace(recipe, data=data, phases=(phase,), ema_decay=0.0)
