"""The report of an analysis: `analysis.json` and a self-contained `analysis.html`."""

import json
import os
from collections.abc import Sequence

from data_pipelines.errors import UserError
from data_pipelines.files import local, write_text
from data_pipelines.records.record_set import RecordSet
from faceattr_tf.reports.analysis.grouping import grouping
from faceattr_tf.reports.analysis.localisation import localisation
from faceattr_tf.reports.analysis.neurons import neurons
from faceattr_tf.reports.analysis.regions import regions
from faceattr_tf.reports.analysis.stages import stages
from faceattr_tf.reports.analysis.subject import Finding, Settings, Subject
from faceattr_tf.reports.analysis.time_per_stage import time_per_stage
from faceattr_tf.reports.analysis.training_size import training_size
from faceattr_tf.reports.analysis.unseen import unseen
from faceattr_tf.reports.page import plain, render
from faceattr_tf.workdir import Workdir

FIGURES = {
    "regions": regions,
    "neurons": neurons,
    "grouping": grouping,
    "stages": stages,
    "training_size": training_size,
    "unseen": unseen,
    "localisation": localisation,
    "time_per_stage": time_per_stage,
}
"""Name -> what makes the figure of a subject; in the order of the page."""


def analyze(
    workdir: str | os.PathLike,
    records: str | os.PathLike,
    split: str = "validation",
    *,
    figures: Sequence[str] = (),
    output: str | os.PathLike | None = None,
    settings: Settings | None = None,
) -> dict:
    """Makes figures of what a run's model has learnt, and writes a page of them.

    Args:
        workdir: folder of a training run, of any network.
        records: folder of records.
        split: part of the records.
        figures: keys of `FIGURES`, which must then succeed; empty: all that can be made, and the
            page says why one cannot.
        output: folder for the two files, default `<workdir>/analysis/<records>-<split>`; figures
            of an earlier analysis there are replaced.
        settings: of the figures.

    Returns:
        What `analysis.json` holds; the key `folder` says where it lies.

    Raises:
        UserError: workdir or records are missing, or a figure that was named cannot be made.
    """
    settings = settings or Settings()
    for name in figures:
        if name not in FIGURES:
            raise UserError(f"there is no figure {name!r}; there are: {', '.join(FIGURES)}")
    for name in ("images", "batch_size", "bootstrap"):
        if getattr(settings, name) < 1:
            raise UserError(f"{name} {getattr(settings, name)}: expected at least 1")
    subject = Subject(Workdir.open(workdir), RecordSet.load(records), split, settings)
    if not subject.count:
        raise UserError(f"{records}: split {split!r} holds no examples")
    findings, left_out = {}, {}
    for name in figures or FIGURES:
        try:
            findings[name] = FIGURES[name](subject)
        except UserError as error:
            if figures:
                raise
            left_out[name] = str(error)
    if not findings:
        raise UserError("; ".join(left_out.values()))
    stem = f"{subject.records.name}-{split}"
    folder = local(output) if output else subject.workdir.path / "analysis" / stem
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "folder": str(folder),
        "workdir": str(subject.workdir.path),
        "recipe": subject.workdir.recipe().name,
        "network": subject.workdir.recipe().model.name,
        "step": (subject.workdir.metadata().get("best") or {}).get("step"),
        "records": {"name": subject.records.name, "path": subject.records.path},
        "split": split,
        "examples": subject.count,
        "seed": settings.seed,
        "figures": {name: finding.numbers for name, finding in findings.items()},
        "left_out": left_out,
    }
    text = json.dumps(plain(contents), indent=1, allow_nan=False)
    write_text(folder / "analysis.json", text + "\n")
    write_text(folder / "analysis.html", html(contents, list(findings.values())))
    return contents


def html(contents: dict, findings: Sequence[Finding]) -> str:
    """One page that needs no other file and no network."""
    step = contents["step"]
    return render(
        "analysis.html.jinja",
        title=f"What {contents['recipe'] or contents['network']} has learnt, on "
        f"{contents['records']['name']}, {contents['split']}",
        facts={
            "Records": contents["records"]["path"],
            "Split": f"{contents['split']}, {contents['examples']:,} images",
            "Model": contents["network"] + (f", step {step:,}" if step is not None else ""),
            "Workdir": contents["workdir"],
            "Seed": str(contents["seed"]),
        },
        left_out=contents["left_out"],
        sections=[finding.section for finding in findings],
    )
