"""A network's weights out of the models of other runs: one trunk, and the branches of all."""

import re
from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from data_pipelines.errors import UserError
from faceattr_tf.models.heads import NEW_LAYERS


def take_from_runs(
    model: keras.Model,
    runs: Mapping[str, keras.Model],
    *,
    layers: str = "",
    copies: bool = False,
    whole: bool = False,
) -> None:
    """Gives a model the weights of other ones where name and shape agree, and says how many.

    Args:
        model: what is given weights.
        runs: where a model was trained -> the model; several share the layers that they have in
            common, as those do whose trunk was frozen.
        layers: regular expression of the names of layers that are given weights; empty means all.
        copies: branches that no run has begin with the weights of the layers that they copy.
        whole: every weight must be found.

    Raises:
        UserError: a run has nothing to give, two of them differ in a layer, or a weight that must
            be found is not.
    """
    known = {
        run: {weight.path: weight for layer in other.layers for weight in layer.weights}
        for run, other in runs.items()
    }
    taken = dict.fromkeys(runs, 0)
    for layer in (one for one in model.layers if re.search(layers, one.name)):
        for weight in layer.weights:
            given = _given(weight, weight.path, known)
            if copies and not given and layer.name in model.copies:
                original = weight.path.replace(layer.name, model.copies[layer.name], 1)
                given = _given(weight, original, known)
            if given:
                run, value = next(iter(given.items()))
                _agree(layer.name, given)
                weight.assign(value)
                taken[run] += 1
            elif whole:
                raise UserError(
                    f"{', '.join(runs)}: none has the weights of layer {layer.name!r}; expected runs "
                    "whose model.branches name what they train as the joined network does"
                )
    for run, count in taken.items():
        if not count:
            raise UserError(f"warm start: no weight of {run} fits this model by name and shape")
        print(f"warm start: {count} of {len(model.weights)} weights from {run}")


def _given(weight, path: str, known: Mapping[str, Mapping]) -> dict[str, np.ndarray]:
    """What every run that has it gives for a weight."""
    found = {run: weights[path] for run, weights in known.items() if path in weights}
    return {
        run: ops.convert_to_numpy(one) for run, one in found.items() if one.shape == weight.shape
    }


def _agree(layer: str, given: Mapping[str, np.ndarray]) -> None:
    (first, value), *others = given.items()
    for run, other in others:
        if not np.array_equal(value, other):
            reason = "of either, it is a new layer; expected runs with branches of other names"
            if not layer.startswith(NEW_LAYERS):
                reason = "it belongs to the trunk; expected runs that froze the same one"
            raise UserError(f"{first} and {run} differ in layer {layer!r}: {reason}")
