"""Optimizers, learning-rate schedules and decay of a phase, built from Keras' own."""

from collections.abc import Sequence

import keras

from data_pipelines.errors import UserError
from faceattr_tf.configs.base import LINEAR_SVM, Phase
from faceattr_tf.models.stages import stages_of

NOT_DECAYED = ("bias", "gamma", "beta")
"""Names of the weights that decay leaves alone: biases and those of normalisation."""


def create_learning_rate(phase: Phase, steps: int):
    """The learning rate over the `steps` of a phase: a number or a Keras schedule.

    Raises:
        UserError: the schedule has no such name.
    """
    rate = phase.learning_rate
    if phase.schedule == "constant":
        return rate
    if phase.schedule == "piecewise":
        boundaries = [round(share * steps) for share in phase.boundaries]
        values = [rate * phase.decay**drops for drops in range(len(boundaries) + 1)]
        return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)
    if phase.schedule == "cosine":
        warmup = round(phase.warmup * steps)
        return keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=0.0 if warmup else rate,
            warmup_target=rate if warmup else None,
            warmup_steps=warmup,
            decay_steps=max(1, steps - warmup),
            alpha=phase.decay,
        )
    raise UserError(
        f"phase {phase.name!r}: schedule {phase.schedule!r} is none of constant, piecewise, cosine"
    )


def create_optimizer(phase: Phase, steps: int, precision: str):
    """The optimizer of a phase; with loss scaling under float16. None for `linear_svm`.

    Weight decay is decoupled and leaves biases and normalisation alone. Clipping is not the
    optimizer's business here: the training step clips the gradient summed over all replicas.

    Raises:
        UserError: the optimizer has no such name.
    """
    if phase.optimizer == LINEAR_SVM:
        return None
    shared = {"learning_rate": create_learning_rate(phase, steps)}
    if phase.weight_decay:
        shared["weight_decay"] = phase.weight_decay
    optimizers = {
        "sgd": lambda: keras.optimizers.SGD(momentum=phase.momentum, **shared),
        "rmsprop": lambda: keras.optimizers.RMSprop(
            momentum=phase.momentum, epsilon=phase.epsilon, **shared
        ),
        "adam": lambda: keras.optimizers.Adam(epsilon=phase.epsilon, **shared),
        "adamw": lambda: keras.optimizers.AdamW(
            epsilon=phase.epsilon, **{"weight_decay": 0.0, **shared}
        ),
    }
    if phase.optimizer not in optimizers:
        raise UserError(
            f"phase {phase.name!r}: optimizer {phase.optimizer!r} is none of "
            + ", ".join((*optimizers, LINEAR_SVM))
        )
    optimizer = optimizers[phase.optimizer]()
    optimizer.exclude_from_weight_decay(var_names=list(NOT_DECAYED))
    if precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def decayed(variables: Sequence) -> list[bool]:
    """Which of the variables decay: kernels, not biases and normalisation."""
    return [variable.name not in NOT_DECAYED for variable in variables]


def rate_factors(model: keras.Model, variables: Sequence, phase: Phase) -> list[float]:
    """What the learning rate of every variable is multiplied by: `layer_decay` per stage.

    The heads have the full rate, the topmost stage of the pretrained network that rate times the
    decay, and so on down (Howard and Ruder, ULMFiT, ACL 2018, section 3.2, by stages).
    """
    if phase.layer_decay == 1.0:
        return [1.0] * len(variables)
    stages = stages_of(model)
    top = max(stages.values())
    factors = {
        weight.path: phase.layer_decay ** (top - stages[layer.name])
        for layer in model.layers
        for weight in layer.weights
    }
    return [factors[variable.path] for variable in variables]
