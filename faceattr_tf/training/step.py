"""One step of training, compiled: losses, gradients, micro-batches, averages."""

import functools

import keras
import tensorflow as tf

from faceattr_tf.configs.base import Phase
from faceattr_tf.experiment import Experiment
from faceattr_tf.models.auxiliary import auxiliary_name
from faceattr_tf.models.heads import scale_pixels
from faceattr_tf.models.stages import classifier_of, new_layers_of
from faceattr_tf.training.objective import create_losses
from faceattr_tf.training.optimizers import decayed, rate_factors
from faceattr_tf.training.state import TrainingState, freeze


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
