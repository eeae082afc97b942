"""Which layer, crop and decay suit a pretrained network: a grid of tops trained on bottlenecks."""

import dataclasses
import json
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from data_pipelines.progress import progress_bar
from faceattr_tf.configs.base import Recipe
from faceattr_tf.evaluation.metrics import score_of
from faceattr_tf.experiment import Experiment
from faceattr_tf.features.batches import Features
from faceattr_tf.features.extract import extract, network_stages
from faceattr_tf.training.batches import training_stream
from faceattr_tf.training.state import TrainingState
from faceattr_tf.training.step import create_train_step
from faceattr_tf.training.validation import (
    check_validation,
    figures_of,
    validation_batches,
    validation_outputs,
)

EVALUATIONS = 10
"""Validations of a cell, of which the best counts."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One top of the grid.

    Attributes:
        crop: what the network saw, as `parse_crop` takes it.
        layer: whose pooled output it was trained on.
        decay: weight decay of its training.
        step: at which validation was best.
        values: what validation measured then.
    """

    crop: str
    layer: str
    decay: float
    step: int
    values: dict[str, float]


def probe(
    recipe: Recipe,
    *,
    layers: Sequence[str] = (),
    crops: Sequence[str] = (),
    decays: Sequence[float] = (0.0,),
    progress: bool = True,
) -> list[Cell]:
    """Trains a top for every layer, crop and decay, and measures it on validation.

    The network passes over the images once for each crop, whatever the number of layers; what it
    gives is kept as training on bottlenecks keeps it, and found again by it. The test part is not
    looked at.

    Args:
        recipe: one that trains on bottlenecks; layer, crop and decay are replaced.
        layers: ends of stages of the network; empty: all of them.
        crops: texts that `parse_crop` takes; empty: the recipe's.
        decays: decoupled weight decays.
        progress: show a bar.

    Returns:
        The cells in the order of the grid; see `best_cell`.

    Raises:
        UserError: recipe, layers and crops do not fit together.
    """
    if not recipe.data.bottlenecks.use:
        raise UserError(
            f"recipe {recipe.name!r} does not train on bottlenecks: expected one that does, or "
            "--config.data.bottlenecks.use"
        )
    framings = {name: parse_crop(name, recipe.data.crop) for name in crops}
    framings = framings or {recipe.data.crop.kind: recipe.data.crop}
    cells = []
    layers = tuple(layers) or network_stages(Experiment.of(recipe))
    total = len(framings) * len(layers) * len(decays)
    with progress_bar(total, "top", show=progress) as bar:
        for name, crop in framings.items():
            data = dataclasses.replace(recipe.data, crop=crop)
            experiment = Experiment.of(dataclasses.replace(recipe, data=data))
            check_validation(experiment)
            training, validation = (
                extract(experiment, split, layers, progress=progress)
                for split in ("train", "validation")
            )
            for layer in layers:
                for decay in decays:
                    bar.set_description(f"{name}, {layer}, {decay:g}")
                    phases = [dataclasses.replace(p, weight_decay=decay) for p in recipe.phases]
                    changed = dataclasses.replace(experiment.recipe, phases=tuple(phases))
                    one = dataclasses.replace(experiment, recipe=changed)
                    step, values, _ = train_top(one, training[layer], validation[layer])
                    cells.append(Cell(name, layer, decay, step, values))
                    bar.update()
    return cells


def best_cell(cells: Sequence[Cell], metric: str) -> Cell:
    """The best cell by a metric of validation."""
    return min(cells, key=lambda cell: score_of(cell.values, metric))


def train_top(
    experiment: Experiment,
    training: Sequence[Features],
    validation: Sequence[Features],
    prepare: Callable[[keras.Model], None] | None = None,
) -> tuple[int, dict[str, float], tuple]:
    """Trains new layers on stored features, of which the best of a few validations counts.

    Args:
        experiment: gives recipe and tasks.
        training: the features of the training sources.
        validation: those of validation.
        prepare: gives the new layers weights to begin with.

    Returns:
        The step of the best validation, what it measured, and what `validation_outputs` gave then.
    """
    strategy = tf.distribute.get_strategy()
    state = TrainingState(experiment, strategy, features=training[0].features.width)
    if prepare:
        prepare(state.model)
        state.restart_averages()
    batches_of_validation = validation_batches(experiment, validation)
    total, metric = experiment.phase_ends[-1], experiment.recipe.best_metric
    ends = {round(total * share) for share in np.linspace(0, 1, EVALUATIONS + 1)[1:]}
    best, index = None, None
    for step in range(total):
        if index != experiment.phase_at(step):
            index = experiment.phase_at(step)
            train_step = create_train_step(state, experiment, index, top=True)
            batches = training_stream(experiment, strategy, step, training)
        train_step(next(batches))
        if step + 1 in ends:
            state.update_evaluated_model()
            found = validation_outputs(state.forward, experiment, batches_of_validation)
            values = figures_of(experiment, *found)
            if best is None or score_of(values, metric) < score_of(best[1], metric):
                best = step + 1, values, found
    return best


def parse_crop(text: str, given: Crop) -> Crop:
    """A crop of a given one's size from its kind and the number that matters to the kind.

    Args:
        text: `none`, `box[:margin]`, `align[:margin]`, `affine[:margin]`, `nose[:window]` or
            `window[:window]`, the window in pixels of the image.
        given: what is not said.

    Raises:
        UserError: there is no such crop, or its number is none.
    """
    kind, colon, number = text.partition(":")
    numbers = {"none": "", "box": "margin", "align": "margin", "affine": "margin"}
    numbers |= {"nose": "window", "window": "window"}
    try:
        field = numbers[kind]
        changes = {field: float(number)} if colon else {}
        if "" in changes:
            raise ValueError
    except (KeyError, ValueError):
        raise UserError(
            f"crop {text!r}: expected none, box:MARGIN, align:MARGIN, affine:MARGIN, nose:PIXELS "
            "or window:PIXELS"
        ) from None
    if kind == "nose" and not colon and not given.window:
        changes = {"window": 150.0}
    crop = dataclasses.replace(given, kind=kind, **changes)
    crop.check()
    return crop


def flags_of(cell: Cell, recipe: Recipe) -> str:
    """The flags that make the recipe train this cell."""
    crop = parse_crop(cell.crop, recipe.data.crop)
    changed = {
        name: getattr(crop, name)
        for name in ("kind", "margin", "window")
        if getattr(crop, name) != getattr(recipe.data.crop, name)
    }
    flags = [f"--config.model.layer={cell.layer}"]
    flags += [f"--config.data.crop.{name}={value}" for name, value in changed.items()]
    flags += [
        f"'--config.phases[{index}].weight_decay={cell.decay:g}'"
        for index in range(len(recipe.phases))
    ]
    return " ".join(flags)


def to_json(cells: Sequence[Cell]) -> str:
    """All cells with all that validation measured."""
    return json.dumps([dataclasses.asdict(cell) for cell in cells], indent=1) + "\n"
