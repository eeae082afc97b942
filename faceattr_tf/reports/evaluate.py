"""Evaluation of a trained model: its outputs over a whole split, then every figure of the report.

Nothing is fitted here: thresholds and temperatures come from the workdir, where training chose
them on validation data.
"""

import dataclasses
import os
from collections.abc import Sequence

from data_pipelines.errors import UserError
from data_pipelines.files import local
from data_pipelines.records.record_set import RecordSet
from faceattr_tf.evaluation.conformal import Risk, measure_unsure, with_unsure
from faceattr_tf.evaluation.on_validation import check_validation
from faceattr_tf.evaluation.operating_point import check_yes_no, choose_on_validation, measure_at
from faceattr_tf.evaluation.split import (
    measure_split,
    share_tasks,
    split_batches,
    ten_crop_share,
    validation_part,
)


def evaluate(
    workdir: str | os.PathLike,
    records: str | os.PathLike | Sequence[str | os.PathLike],
    split: str = "test",
    *,
    output: str | os.PathLike | None = None,
    flip: bool = False,
    ten_crop: bool = False,
    bootstrap: int = 1000,
    batch_size: int = 128,
    false_positive_rate: float | None = None,
    consistent: bool = False,
    unsure: Risk | float | str | None = None,
) -> dict[str, dict]:
    """Evaluates a trained model on record sets and writes a report for each.

    Args:
        workdir: folder of a training run.
        records: one or several folders of records that share a task with the model.
        split: which part of the records.
        output: folder for the reports; default `<workdir>/evaluation`.
        flip: average every output with that of the mirrored image.
        ten_crop: average it over ten crops instead: centre and corners, mirrored and not, as large
            as the run was trained on by `Augment.ten_crop`.
        bootstrap: resamples for the 95 % intervals; 0 leaves them out.
        batch_size: images per forward pass.
        false_positive_rate: also measure yes/no labels at thresholds that were chosen for it on
            the run's validation images.
        consistent: also measure answers of which, in every pair that is impossible by the labels of
            training, the less certain one gives way (`faceattr_tf.evaluation.consistency`).
        unsure: also measure answers of which at most this share is wrong, others being `unsure`
            (`faceattr_tf.evaluation.conformal`).

    Returns:
        Name of the report's folder (`<records>-<split>[-flip|-ten_crop]`) -> everything that is in
        its `report.json`; the key `folder` says where it lies.

    Raises:
        UserError: the workdir or records are missing, share no task, the split is unknown, the
            run was not trained on ten crops, it has no or too few validation images for a false
            positive rate or a risk, or does not know impossible pairs.
    """
    from faceattr_tf.workdir import Workdir

    if bootstrap < 0:
        raise UserError(f"bootstrap {bootstrap}: expected 0 or more resamples")
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}: expected at least 1")
    if false_positive_rate is not None and not 0 < false_positive_rate < 1:
        raise UserError(
            f"false positive rate {false_positive_rate}: expected a share between 0 and 1"
        )
    workdir = Workdir.open(workdir)
    folder = local(output) if output else workdir.path / "evaluation"
    if isinstance(records, str | os.PathLike):
        records = [records]
    record_sets = [RecordSet.load(path) for path in records]
    if not record_sets:
        raise UserError("no records given: name at least one folder of records")
    # Everything that can be wrong is found before TensorFlow is loaded and time is spent.
    for record_set in record_sets:
        share_tasks(workdir.tasks, record_set)
        if not record_set.count(split, *validation_part(workdir, record_set)):
            raise UserError(f"{record_set.path}: split {split!r} holds no examples")
    if false_positive_rate is not None:
        check_yes_no(workdir)
    if unsure is not None:
        unsure = Risk.of(unsure)
    if false_positive_rate is not None or unsure is not None:
        check_validation(workdir, anew=flip or ten_crop)
    if consistent:
        workdir.impossible()
    share = ten_crop_share(workdir) if ten_crop else 0.0
    model = workdir.load_model()
    settings = _Settings(flip, share, bootstrap, batch_size, false_positive_rate, consistent)
    thresholds, calibration = {}, {}
    shown = {"flip": flip, "ten_crop": share, "batch_size": batch_size}
    if false_positive_rate is not None:
        thresholds = choose_on_validation(workdir, model, false_positive_rate, **shown)
    if unsure is not None:
        calibration = with_unsure(workdir, workdir.calibration(), unsure, model, **shown)
    reports = {}
    for record_set in record_sets:
        stem = f"{record_set.name}-{split}" + ("-ten_crop" if share else "-flip" if flip else "")
        name, number = stem, 1
        while name in reports:
            number += 1
            name = f"{stem}-{number}"
        reports[name] = _evaluate_records(
            workdir, model, record_set, split, folder / name, settings, thresholds, calibration
        )
    return reports


@dataclasses.dataclass(frozen=True)
class _Settings:
    """How answers come about and are measured, see `evaluate`."""

    flip: bool
    ten_crop: float
    bootstrap: int
    batch_size: int
    false_positive_rate: float | None
    consistent: bool


def _evaluate_records(workdir, model, records, split, folder, settings, thresholds, calibration):
    from faceattr_tf.evaluation.bootstrap import calibration_intervals, intervals
    from faceattr_tf.evaluation.leakage import training_overlap
    from faceattr_tf.reports import page
    from faceattr_tf.reports.galleries import collect_examples
    from faceattr_tf.reports.published import published_rows

    folder.mkdir(parents=True, exist_ok=True)  # fails now rather than after the work
    recipe, metadata = workdir.recipe(), workdir.metadata()

    bootstrap, ten_crop = settings.bootstrap, settings.ten_crop
    part = workdir, records, split, settings.batch_size
    batches = split_batches(*part)
    shown = split_batches(*part, ten_crop) if ten_crop else batches
    how = settings.flip or bool(ten_crop), settings.consistent
    results, filenames = measure_split(workdir, model, records, shown, *how)
    for result in (result for result in results if result.task.name in thresholds):
        result.numbers["operating_point"] = measure_at(
            result, thresholds[result.task.name], settings.false_positive_rate
        )
    labels = {task.name: task.labels for task in workdir.tasks}
    for result in results:
        name = result.task.name
        if "least" in calibration.get(name, {}):
            risk, least = calibration[name]["risk"], calibration[name]["least"]
            least = dict(zip(labels[name], least, strict=True))
            result.numbers["unsure"] = measure_unsure(result, risk, least)
    if bootstrap:
        for result in results:
            if "calibration" in result.numbers:
                spans = calibration_intervals(result, bootstrap)
                result.numbers["intervals_of_calibration"] = spans
            result.numbers["intervals"] = intervals(result, bootstrap)
            if result.thresholds:
                result.numbers["intervals_at_thresholds"] = intervals(
                    result, bootstrap, result.thresholds
                )
    contents = {
        "folder": str(folder),
        "data": {
            "name": records.name,
            "title": records.description.get("title"),
            "path": str(records.path),
            "fingerprint": records.description.get("fingerprint"),
            "split": split,
            "examples": len(filenames),
        },
        "model": {
            "workdir": str(workdir.path),
            "recipe": recipe.name,
            "network": recipe.model.name,
            "parameters": model.count_params(),
            "best": metadata.get("best"),
            "crop": workdir.crop.to_dict(),
            "trained_on": metadata.get("records", []),
        },
        "flip": settings.flip,
        "ten_crop": ten_crop,
        "bootstrap": bootstrap,
        "tasks": {result.task.name: result.numbers for result in results},
        "not_shared": share_tasks(workdir.tasks, records)[1],
        "overlap": training_overlap(workdir, records, filenames),
        "published": [
            dataclasses.asdict(row) for row in published_rows(records.name, split, len(filenames))
        ],
    }
    examples = collect_examples(results, batches, filenames)
    page.write_report(folder, contents, results, examples, workdir.metrics_log())
    return contents
