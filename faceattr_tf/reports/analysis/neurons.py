"""What single features stand for: mean faces of high and low responses, LNets+ANet, figure 8."""

import itertools

import numpy as np

from data_pipelines.errors import UserError
from faceattr_tf.reports.analysis.subject import Finding, Subject
from faceattr_tf.reports.galleries import Example, Gallery, thumbnail
from faceattr_tf.reports.page import Section

SHOWN, EXAMPLES, STRONGEST = 6, 4, 5
"""Neurons that vary most, example images, and the strongest neurons of each."""

SHARE = 0.05
"""Share of the images that make a mean face."""

_ABOUT = (
    "LNets+ANet, figure 8, on {count:,} images and the {width:,} features of {layer}. {why} Each "
    "mean face is that of {size:,} images: those with the highest responses, those around the "
    "median, and those with the lowest. Beside a neuron stands the label that its responses "
    "correlate with most over all images (Pearson's r), which is a hint and not its meaning: a "
    "label that correlates with that one correlates too, and much of a mean face is pose, hair and "
    "background that go along. Of example images, chosen at random, the strongest neurons are those "
    "furthest above their mean in standard deviations, each shown by its mean face of high responses"
)


def neurons(subject: Subject) -> Finding:
    """Mean faces of the images with high, medium and low responses, and each image's strongest.

    Raises:
        UserError: the network has no such layer, or the layer no such neuron.
    """
    settings = subject.settings
    layer = subject.layer(settings.layer)
    responses = subject.responses(layer)
    count, width = responses.shape
    for neuron in settings.neurons:
        if not 0 <= neuron < width:
            raise UserError(f"neuron {neuron}: {layer} has 0 to {width - 1}")
    deviation = responses.std(axis=0)
    varying = np.argsort(-deviation, kind="stable")[: min(SHOWN, width)]
    chosen = list(settings.neurons) or varying.tolist()
    examples = np.sort(np.random.default_rng(settings.seed).permutation(count)[:EXAMPLES])
    strength = (responses - responses.mean(axis=0)) / np.where(deviation > 0, deviation, np.inf)
    strongest = {row: np.argsort(-strength[row])[:STRONGEST].tolist() for row in examples.tolist()}
    shown = list(dict.fromkeys(itertools.chain(chosen, *strongest.values())))
    size = max(1, round(SHARE * count))
    groups = {neuron: _groups(responses[:, neuron], size) for neuron in shown}
    faces, pictures = _mean_faces(subject, groups, examples)
    like = _most_like(subject, responses, shown)

    def captions(neuron, more):
        hint = like.get(neuron)
        lines = [f"neuron {neuron}", more, *([f"{hint[0]}, r {hint[1]:+.2f}"] if hint else [])]
        return tuple((line, None) for line in lines)

    galleries = [
        Gallery(
            f"{name} responses",
            tuple(
                Example(
                    "",
                    *thumbnail(faces[neuron][name]),
                    captions(neuron, f"mean {responses[groups[neuron][name], neuron].mean():.2f}"),
                )
                for neuron in chosen
            ),
        )
        for name in ("High", "Medium", "Low")
    ]
    for row in examples.tolist():
        name, pixels = pictures[row]
        mean_faces = [
            Example(
                "",
                *thumbnail(faces[neuron]["High"]),
                captions(neuron, f"{strength[row, neuron]:+.1f} deviations"),
            )
            for neuron in strongest[row]
        ]
        first = Example(name, *thumbnail(pixels), ())
        galleries.append(Gallery("An image and its strongest neurons", (first, *mean_faces)))
    why = "The neurons were named." if settings.neurons else "Shown are those that vary most."
    numbers = {
        "images": count,
        "layer": layer,
        "features": width,
        "images_of_a_mean_face": size,
        "neurons": {
            neuron: {
                "deviation": float(deviation[neuron]),
                "label": like[neuron][0] if neuron in like else None,
                "correlation": like[neuron][1] if neuron in like else None,
                "mean_response": {
                    name: float(responses[rows, neuron].mean())
                    for name, rows in groups[neuron].items()
                },
            }
            for neuron in shown
        },
        "strongest": {pictures[row][0]: of for row, of in strongest.items()},
    }
    about = _ABOUT.format(count=count, width=width, layer=layer, why=why, size=size)
    return Finding(Section("Neurons", about, (), (), galleries), numbers)


def _groups(responses: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """Rows of the images with the highest, the middle and the lowest of the responses `[N]`."""
    order = np.argsort(responses, kind="stable")
    start = (len(order) - size) // 2
    return {"High": order[-size:], "Medium": order[start : start + size], "Low": order[:size]}


def _mean_faces(subject: Subject, groups: dict, examples: np.ndarray) -> tuple[dict, dict]:
    """Per neuron and group the mean image, uint8 `[H, W, 3]`; per example its name and image."""
    keys = [(neuron, name) for neuron, own in groups.items() for name in own]
    count = subject.count
    member = np.zeros((len(keys), count), np.float32)
    for index, (neuron, name) in enumerate(keys):
        rows = groups[neuron][name]
        member[index, rows] = 1 / len(rows)
    total, start, pictures = 0, 0, {}
    for batch in subject.batches():
        images = np.asarray(batch["image"])
        end = start + len(images)
        total = total + np.tensordot(member[:, start:end], images, axes=1)
        for row in examples[(examples >= start) & (examples < end)].tolist():
            name = np.asarray(batch["filename"])[row - start]
            pictures[row] = name.decode("utf-8", "replace"), _pixels(images[row - start])
        start = end
    faces = {neuron: {} for neuron in groups}
    for (neuron, name), image in zip(keys, total, strict=True):
        faces[neuron][name] = _pixels(image)
    return faces, pictures


def _pixels(image: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _most_like(subject: Subject, responses: np.ndarray, shown: list[int]) -> dict:
    """Neuron -> the label that it correlates with most over the images that know it, and r."""
    try:
        labels, names = subject.known, subject.labels
    except UserError:  # nothing is shared: neurons have faces without it
        return {}
    best: dict[int, tuple[str, float]] = {}
    for index, name in enumerate(names):
        known = labels[:, index] >= 0
        truth = labels[known, index].astype(float)
        if not known.any() or truth.std() == 0:
            continue
        values = responses[known][:, shown]
        spread = values.std(axis=0) * truth.std()
        covariance = (values - values.mean(axis=0)).T @ (truth - truth.mean()) / len(truth)
        for neuron, r in zip(shown, covariance / np.where(spread > 0, spread, np.inf), strict=True):
            if neuron not in best or abs(r) > abs(best[neuron][1]):
                best[neuron] = name, float(r)
    return best
