"""One step of training, compiled: losses, gradients, micro-batches, averages."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from faceattr_tf.configs.base import Phase
from faceattr_tf.experiment import Experiment
from faceattr_tf.models.heads import scale_pixels
from faceattr_tf.models.stages import classifier_of, new_layers_of
from faceattr_tf.training.mixup import mix, mixed_losses, mixing_share
from faceattr_tf.training.objective import Objective, seen_of
from faceattr_tf.training.optimizers import decayed, rate_factors
from faceattr_tf.training.state import TrainingState, freeze


def create_train_step(
    state: TrainingState, experiment: Experiment, phase_index: int, *, top: bool = False
):
    """The compiled step of a phase: `batch -> None`; losses are added up in `state`.

    Args:
        state: what is changed.
        experiment: gives recipe, tasks and losses.
        phase_index: index of the phase among the recipe's.
        top: the model consists of heads alone, as in a run on bottlenecks.
    """
    recipe = experiment.recipe
    phase = recipe.phases[phase_index]
    strategy = state.strategy
    variables = freeze(state.model, phase)
    values = [variable.value for variable in variables]
    factors = rate_factors(state.model, variables, phase)
    objective = Objective(experiment, phase, state.losses, state.slices)
    replica_step = _replica_step(state, experiment, phase_index, objective, variables, top)
    fields = ("image", "labels") + (("identity",) if state.losses else ())
    fields += ("slice",) if state.slices else ()
    weights = tf.constant(objective.weights)

    @tf.function(autograph=False)
    def train_step(batch):
        for index, seed in enumerate(state.seeds):
            key = tf.stack([tf.cast(state.step, seed.dtype), recipe.seed * 1000 + index])
            seed.assign(tf.cast(key, seed.dtype))
        slowed = [(value, f) for value, f in zip(values, factors, strict=True) if f != 1.0]
        before = [tf.identity(value) for value, _ in slowed]
        batch = {name: batch[name] for name in fields}
        losses, *sums = strategy.run(replica_step, args=(batch,))
        # Every optimizer's change is proportional to its rate: a part of the change is that of a
        # lower rate.
        for (value, factor), old in zip(slowed, before, strict=True):
            value.assign(old + factor * (value - old))
        losses, *sums = (
            strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None)
            for value in (losses, *sums)
        )
        objective.update(sums)
        finite = tf.math.is_finite(tf.reduce_sum(losses * weights * _active(state)))
        first = tf.logical_and(tf.logical_not(finite), state.broken_step < 0)
        state.broken_step.assign(tf.where(first, state.step, state.broken_step))
        row = tf.stack([losses, tf.cast(objective.learned, tf.float32)])
        state.logged.assign_add(row)
        state.validated.assign_add(row)
        state.step.assign_add(1)
        _average(state, recipe.ema_decay)

    return train_step


def _replica_step(
    state: TrainingState,
    experiment: Experiment,
    phase_index: int,
    objective: Objective,
    variables: Sequence,
    top: bool,
):
    """A replica's part of a step: `batch -> [losses, *statistics]`; it applies the gradients."""
    recipe = experiment.recipe
    phase, optimizer = recipe.phases[phase_index], state.optimizers[phase_index]
    replicas = state.strategy.num_replicas_in_sync
    values = [variable.value for variable in variables]
    forward = forward_of(state.model, experiment, phase, top=top)

    def forward_and_backward(batch, parts):
        share = mixing_share(phase.mixup, recipe.seed, state.step)
        images = mix(batch["image"], share)
        taught = state.teach(images)
        with tf.GradientTape() as tape:
            seen = seen_of(batch, *forward(images), taught)
            losses, total = mixed_losses(objective, seen, share)
            loss = tf.reduce_sum(total * objective.weights * _active(state))
            if state.model.losses:
                loss += tf.add_n(state.model.losses) / tf.cast(replicas * parts, tf.float32)
            scaled = optimizer.scale_loss(loss)
        return [losses, *objective.statistics(seen), *tape.gradient(scaled, values)]

    def replica_step(batch):
        zeros = [*objective.zeros, *map(tf.zeros_like, values)]
        found = sum_over_parts(forward_and_backward, batch, recipe.data.micro_batch, zeros)
        sums, gradients = found[: -len(values)], found[-len(values) :]
        learning = [v for v, g in zip(variables, gradients, strict=True) if g is not None]
        gradients = [gradient for gradient in gradients if gradient is not None]
        if phase.l2:
            gradients = _with_l2(gradients, learning, phase.l2 / replicas, optimizer)
        if phase.clip_norm:
            gradients = _clipped(gradients, phase.clip_norm, replicas, optimizer)
        optimizer.apply(gradients, learning)
        return sums

    return replica_step


def _active(state: TrainingState):
    """One factor per loss: 0 for a task that was stopped, else 1."""
    return tf.concat([state.active, tf.ones(len(state.losses))], 0)


def _with_l2(gradients: list, variables: list, l2: float, optimizer) -> list:
    """The gradients with that of half the squared norm of every kernel, times `l2`."""
    factor = optimizer.scale_loss(tf.constant(l2))
    return [
        gradient + factor * variable.value if decays else gradient
        for gradient, variable, decays in zip(gradients, variables, decayed(variables), strict=True)
    ]


def _clipped(gradients: list, norm: float, replicas: int, optimizer) -> list:
    """The gradients, the norm of their sum over all replicas limited."""
    # The norm is that of the whole batch's gradient. The optimizer adds the replicas' gradients up
    # once more, hence the division.
    if replicas > 1:
        context = tf.distribute.get_replica_context()
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    limit = optimizer.scale_loss(tf.constant(norm))
    gradients, _ = tf.clip_by_global_norm(gradients, limit)
    return [gradient / replicas for gradient in gradients]


def _average(state: TrainingState, limit: float) -> None:
    """Moves the averages of the weights, where there are any, by at least `1 - limit`."""
    if not limit:
        return
    # A young average leans on recent weights, or it would long remember the random ones.
    age = tf.cast(state.step, tf.float32)
    decay = tf.minimum(limit, (1.0 + age) / (10.0 + age))
    for average, weight in zip(state.averages, state.model.weights, strict=True):
        if weight.dtype == "float32":
            average.assign(decay * average + (1.0 - decay) * weight.value)
        else:
            average.assign(weight.value)


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
    """What a phase computes, in training: `images -> ({task: outputs}, features of the heads)`.

    In a phase on bottlenecks these stand in for the images. What no loss needs is not computed.
    """
    if phase.bottlenecks and not top:
        network = new_layers_of(model)
    elif phase.classifier_input == "transformed":
        network = keras.Model(model.input, [model.output, model.features])
    else:
        classifier = classifier_of(model, experiment.tasks)
        return lambda images: classifier(scale_pixels(images), training=True)
    return lambda images: network(images, training=True)
