"""How long the stages of localisation and attributes take: LNets+ANet, section 5."""

import os
import time
from collections.abc import Callable

import cv2
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.formats.encoded import decode
from faceattr_tf.precision import processor_name
from faceattr_tf.reports.analysis.localisation import annotated_pictures, localisers_of
from faceattr_tf.reports.analysis.subject import Finding, Subject
from faceattr_tf.reports.page import Section
from faceattr_tf.reports.tables import NONE, Table, number
from faceattr_tf.workdir import Workdir

SIDE = 300
"""Height and width of the pictures in pixels, the paper's."""

_PICTURES = 20

_ABOUT = (
    "LNets+ANet, section 5: milliseconds for one picture of {side}x{side} pixels and one face, "
    "decoded already; medians over {pictures} pictures, one at a time, all rows in turn at every "
    "picture. {machine}, {processors} cores. The paper has 35 ms for both LNets and 14 ms for "
    "ANet on its GPU. LNets and attributes run as graphs, as in an export; MTCNN with the Python "
    "around it, as `faceattr-data detect` runs it"
)


def time_per_stage(subject: Subject) -> Finding:
    """Milliseconds per picture of every stage of several localisers, and of the attributes.

    Raises:
        UserError: the workdir's network is no LNet, or there is no workdir for attributes.
    """
    classifier = subject.settings.classifier
    if not classifier:
        raise UserError("no workdir of a network for the attributes of faces (--classifier)")
    pictures = [
        cv2.resize(decode(data), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        for data in annotated_pictures(subject).data[:_PICTURES]
    ]
    jobs = {"attributes": _classify(Workdir.open(classifier))}
    localisers = localisers_of(subject, faces=1)
    for name, localiser in localisers.items():
        for stages, find in _graphs(localiser):
            jobs[name, stages] = find
    medians = _milliseconds(jobs, pictures)
    rows, numbers = [], {"attributes": medians["attributes"], "localisers": {}}
    for name in localisers:
        own = [medians[key] for key in jobs if key[0] == name]
        rows.append(
            (
                name,
                number(own[0], 1),
                number(own[1] - own[0], 1) if len(own) > 1 else NONE,
                number(medians["attributes"], 1),
                number(own[-1] + medians["attributes"], 1),
            )
        )
        numbers["localisers"][name] = own
    about = _ABOUT.format(
        side=SIDE,
        pictures=len(pictures),
        processors=os.cpu_count(),
        machine=processor_name(),
    )
    header = ("Localiser", "First stage", "Second stage", "Attributes", "In all")
    table = Table(header, tuple(rows), note="Milliseconds.")
    return Finding(Section("Time per stage", about, (table,), (), ()), numbers)


def _classify(workdir: Workdir) -> Callable:
    import tensorflow as tf

    from faceattr_tf.evaluation.inference import forward_function

    forward, crop = forward_function(workdir.load_model()), workdir.crop
    face = tf.random.uniform((1, crop.height, crop.width, 3), 0, 255, seed=0)
    return lambda picture: forward(face)


def _graphs(localiser) -> list[tuple[int, Callable]]:
    """For every number of its stages, what runs so many of them on one picture."""
    import tensorflow as tf

    from faceattr_tf.prediction.localisation import Localiser
    from faceattr_tf.prediction.localisation_graph import locate_in_pixels

    if not isinstance(localiser, Localiser):
        return [(1, lambda picture: localiser([picture]))]
    graphs = []
    for stages in range(1, len(localiser.stages) + 1):
        part = Localiser(localiser.stages[:stages], faces=1)
        find = tf.function(lambda pixels, part=part: locate_in_pixels(part, pixels))
        graphs.append((stages, lambda picture, find=find: find(picture[None]).box.numpy()))
    return graphs


def _milliseconds(jobs: dict, pictures: list[np.ndarray]) -> dict[str | tuple, float]:
    """The median over pictures of what every job takes, after one picture that does not count."""
    taken = {name: [] for name in jobs}
    for picture in [pictures[0], *pictures]:
        for name, run in jobs.items():
            start = time.perf_counter()
            run(picture)
            taken[name].append(1000 * (time.perf_counter() - start))
    return {name: float(np.median(times[1:])) for name, times in taken.items()}
