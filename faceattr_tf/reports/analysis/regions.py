"""Which part of the face an attribute is read off: LNets+ANet, figure 11, for any network."""

import numpy as np

from data_pipelines.progress import progress_bar
from faceattr_tf.evaluation.explanation import (
    GRID,
    SQUARE,
    draw_heat,
    gradient_maps,
    logits_of,
    occlusion_maps,
)
from faceattr_tf.evaluation.inference import forward_function
from faceattr_tf.reports.analysis.subject import Finding, Subject
from faceattr_tf.reports.galleries import Example, Gallery, thumbnail
from faceattr_tf.reports.page import Section

_ABOUT = (
    "LNets+ANet, figure 11, on {count:,} images, each explained by its own label; those with and "
    "those without an attribute count half each, where there are both. The maps lie over the mean "
    "of the images; every map is as bright as its own largest value allows, so that maps compare "
    "in place and not in height. By occlusion: what the logit of the true answer loses when a "
    "square of {square} by {square} of {grid} by {grid} cells takes the picture's mean colour; the "
    "number is the largest mean loss. By gradients: Grad-CAM on {layer} ({rows} by {columns} "
    "places). Under each map the share of the crop that holds half of what it shows, largest cells "
    "first: small means local. Neither is a proof of cause: hidden squares are unlike any training "
    "picture, and gradients say where features lie that push an answer, not why"
)


def regions(subject: Subject) -> Finding:
    """Attribute-specific regions by occlusion and by gradient maps, averaged over images.

    Raises:
        UserError: the records share no attributes with the model, or no stage gives maps.
    """
    from faceattr_tf.models.create import map_stage

    settings, tasks, model = subject.settings, subject.tasks, subject.model
    layer = map_stage(model, subject.workdir.recipe().model, settings.map_layer)
    images, labels = subject.sample(settings.images)
    signs = np.where(labels < 0, 0, 2 * labels - 1).astype(np.float32)
    forward, weights = forward_function(model), _halves(labels)
    hidden, gradients = 0, 0
    with progress_bar(len(images), "image", show=settings.progress) as bar:
        bar.set_description("regions")
        for start in range(0, len(images), settings.batch_size):
            rows = slice(start, start + settings.batch_size)
            part, sign, weight = images[rows], signs[rows], weights[rows]

            def score(pixels):
                return logits_of(tasks, forward(pixels))

            by_square = occlusion_maps(score, part, sign)
            by_gradient = gradient_maps(model, layer, tasks, part, sign)
            hidden = hidden + np.einsum("bl,blij->lij", weight, by_square)
            gradients = gradients + np.einsum("bl,blij->lij", weight, by_gradient)
            bar.update(len(part))
    mean = images.mean(axis=0)
    numbers = {
        "images": len(images),
        "layer": layer,
        "labels": {
            label: {
                "yes": int((labels[:, index] == 1).sum()),
                "no": int((labels[:, index] == 0).sum()),
                "largest_loss": float(hidden[index].max()),
                "half_of_occlusion_in": _extent(hidden[index]),
                "half_of_gradients_in": _extent(gradients[index]),
                "occlusion": hidden[index],
                "gradients": gradients[index],
            }
            for index, label in enumerate(subject.labels)
        },
    }
    rows, columns = gradients.shape[1:]
    about = _ABOUT.format(
        count=len(images), square=SQUARE, grid=GRID, layer=layer, rows=rows, columns=columns
    )
    galleries = [
        Gallery(
            title,
            tuple(_example(mean, label, own, kind) for label, own in numbers["labels"].items()),
        )
        for title, kind in (("By occlusion", "occlusion"), ("By gradients", "gradients"))
    ]
    return Finding(Section("Regions", about, (), (), galleries), numbers)


def _halves(labels: np.ndarray) -> np.ndarray:
    """Weights of the images for every label, float32 `[n, L]`: yes and no have half each."""
    weights = np.zeros(labels.shape, np.float32)
    for answer in (0, 1):
        given = labels == answer
        weights += given / np.maximum(given.sum(axis=0), 1)
    return weights / np.maximum(weights.sum(axis=0), 1)


def _extent(heat: np.ndarray) -> float | None:
    """The smallest share of the cells that holds half of what a map has above 0; None without."""
    values = np.sort(np.maximum(heat, 0), axis=None)[::-1]
    if not values[0]:
        return None
    return (np.searchsorted(np.cumsum(values), values.sum() / 2) + 1) / values.size


def _example(mean: np.ndarray, label: str, numbers: dict, kind: str) -> Example:
    extent = numbers[f"half_of_{kind}_in"]
    captions = [(f"{label}: {numbers['yes']} yes, {numbers['no']} no", None)]
    if kind == "occlusion":
        captions.append((f"loses {numbers['largest_loss']:.2f}", None))
    captions.append(("nothing" if extent is None else f"half in {extent:.0%}", None))
    return Example("", *thumbnail(draw_heat(mean, numbers[kind])), tuple(captions))
