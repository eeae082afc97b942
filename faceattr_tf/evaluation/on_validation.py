"""What a run's model says of the images that it was validated on, by which more may be chosen.

A run keeps it in its workdir when it ends. Where it is not there (runs of earlier versions, runs
that have not ended), and where answers are averaged over several views, the images are judged anew.
"""

import sys

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.records.record_set import RecordSet
from data_pipelines.tasks import CLASS_KINDS, Task
from faceattr_tf.evaluation.class_metrics import has_many_classes
from faceattr_tf.evaluation.inference import forward_function, predict_outputs
from faceattr_tf.evaluation.split import share_tasks, split_batches, validation_part


def is_kept(task: Task) -> bool:
    """Whether answers on validation are kept of a task: of yes/no labels, and of some classes."""
    return task.kind in ("multilabel", *CLASS_KINDS) and not has_many_classes(task)


def answers_on_validation(
    workdir, model=None, *, flip: bool = False, ten_crop: float = 0.0, batch_size: int = 128
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Labels and outputs of a run's own validation images, of all its records together.

    Args:
        workdir: the `Workdir` of the run.
        model: its model, where it is loaded already.
        flip: average every output with that of the mirrored image, as in what is measured.
        ten_crop: the same over such patches.
        batch_size: images per forward pass.

    Returns:
        Of every task that `is_kept`: name -> labels, as `metrics.evaluate_task` takes them, and
        outputs `[N, n]`.

    Raises:
        UserError: the run's records are not there any more, or hold no validation images.
    """
    tasks = [task for task in workdir.tasks if is_kept(task)]
    if not (flip or ten_crop) and (kept := workdir.validation()):
        return {task.name: kept[task.name] for task in tasks}
    record_sets = _validation_records(workdir)
    print(f"{workdir.path}: its validation images are judged anew", file=sys.stderr)
    parts = {
        task.name: [(np.empty([0, *task.label_shape]), np.empty([0, task.output_size]))]
        for task in tasks
    }
    forward = forward_function(model or workdir.load_model())  # compiled once for all record sets
    averaged = flip or bool(ten_crop)
    for records in record_sets:
        batches = split_batches(workdir, records, "validation", batch_size, ten_crop)
        outputs, labels, _, _ = predict_outputs(forward, batches, averaged, workdir.tasks)
        for name in parts.keys() & labels.keys():
            parts[name].append((labels[name], outputs[name]))
    return {
        name: tuple(map(np.concatenate, zip(*found, strict=True))) for name, found in parts.items()
    }


def check_validation(workdir, anew: bool = False) -> None:
    """Raises UserError where there is nothing that `answers_on_validation` could give.

    Args:
        workdir: the `Workdir` of the run.
        anew: the images have to be judged anew, as answers are averaged over views.
    """
    if anew or not workdir.validation():
        _validation_records(workdir)


def _validation_records(workdir) -> list[RecordSet]:
    """The records of a run that hold its validation images."""
    found = []
    for path in workdir.recipe().data.records:
        records = RecordSet.load(path)
        share_tasks(workdir.tasks, records)
        share, _, _, of_training = validation_part(workdir, records)
        if "validation" in records.splits or records.lends(share, of_training):
            found.append(records)
    if not found:
        raise UserError(
            f"{workdir.path}: what is said at a rate or risk is chosen on the run's validation images, "
            "and its records hold none"
        )
    return found
