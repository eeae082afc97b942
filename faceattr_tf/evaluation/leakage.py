"""Whether evaluation images were also seen in training, as far as file names can tell."""

import pathlib
from collections.abc import Sequence

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.files import local
from data_pipelines.records.record_set import RecordSet


def training_overlap(workdir, records: RecordSet, filenames: Sequence[str]) -> dict:
    """Evaluation images whose name is also that of an image the model was trained on.

    Within one record set whole paths are compared, between different ones only base names: the
    same LFW image is `lfw_5590/Aaron_Eckhart_0001.jpg` in MTFL and lies in a folder of its own in
    LFWA. Two different images that happen to share a base name are counted too.

    Args:
        workdir: the `Workdir` of the model. Where its recipe started from another workdir's
            weights, the records of that one count as well.
        records: the record set that is evaluated.
        filenames: its evaluated images.

    Returns:
        `count`, `filenames` (sorted), `checked` (paths of training records that were compared) and
        `unchecked` (what could not be compared, and why).
    """
    result = {"count": 0, "filenames": [], "checked": [], "unchecked": []}
    found = set()
    for path, *part in _training_records(workdir, result["unchecked"]):
        try:
            training = RecordSet.load(path)
            split, mask = training.select("train", *part)
            trained = training.filenames(split)
        except (UserError, OSError) as error:
            result["unchecked"].append(str(error))
            continue
        if mask is not None:
            trained = [trained[index] for index in np.flatnonzero(mask)]
        fingerprint = training.description.get("fingerprint")
        same = fingerprint is not None and fingerprint == records.description.get("fingerprint")
        key = str if same else lambda name: pathlib.PurePosixPath(name).name
        trained = {key(name) for name in trained}
        found.update(name for name in filenames if key(name) in trained)
        result["checked"].append(str(path))
    return result | {"count": len(found), "filenames": sorted(found)}


def _training_records(workdir, unchecked: list[str]):
    """Path and `validation_rule` of every record set behind the model's weights."""
    from faceattr_tf.workdir import Workdir

    seen, queue = set(), [workdir]
    while queue:
        workdir = queue.pop(0)
        recipe = workdir.recipe()
        for entry in workdir.metadata().get("records", []):
            yield entry["path"], *recipe.validation_rule
        seen.add(workdir.path.resolve())
        for path in (*recipe.warm_starts, *recipe.teachers):
            if local(path).resolve() in seen:
                continue
            try:
                queue.append(Workdir.open(path))
            except UserError as error:
                unchecked.append(f"a run that this one learned from: {error}")
