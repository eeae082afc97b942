"""How well features tell people apart: `verification.json` and a self-contained `verification.html`.

Source: Flickr, section 4.2, on the pairs of LFW.
"""

import json
import os
from collections.abc import Sequence

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.files import local, write_text
from data_pipelines.formats.pairs import Pairs, read_pairs
from data_pipelines.records.record_set import RecordSet
from faceattr_tf.configs.base import Recipe
from faceattr_tf.evaluation.leakage import training_overlap
from faceattr_tf.evaluation.verification import (
    FALSE_RATES,
    Verification,
    best_threshold,
    cosines,
    mean_features,
    verify,
)
from faceattr_tf.reports.page import Plot, Section, plain, render
from faceattr_tf.reports.plots import BLUE, GREY, ORANGE, SERIES, svg
from faceattr_tf.reports.tables import Table, percent
from faceattr_tf.workdir import VERIFICATION, Workdir

PIXELS = "pixels"
"""The row of the crops themselves."""


def verify_pairs(
    network: Workdir | Recipe,
    records: str | os.PathLike,
    pairs: str | os.PathLike,
    *,
    development: str | os.PathLike = "",
    layers: Sequence[str] = (),
    flip: bool = False,
    centre: bool = False,
    pixels: bool = False,
    output: str | os.PathLike = "",
    progress: bool = True,
) -> dict:
    """Measures stages of a network by the protocol of LFW, and writes a page of it.

    Args:
        network: a run, or a recipe that names a network and its weights.
        records: folder of records that hold the images, of all splits.
        pairs: file in the format of `data_pipelines.formats.pairs`.
        development: file of the pairs by which thresholds and means are chosen; empty: each fold's
            by the other folds.
        layers: stages, several joined by `+` as one; empty: what the heads stand on.
        flip: take the mean of the features of a picture and of its mirror image.
        centre: subtract the mean of the features, see `evaluation.verification.verify`.
        pixels: measure the crops themselves, too.
        output: folder for the two files; empty: `verification` in the workdir, where it replaces an
            earlier one and gives two pictures their threshold; none for a recipe.
        progress: show bars.

    Returns:
        What `verification.json` holds; the key `folder` says where it lies, or is None.

    Raises:
        UserError: workdir, records or pairs are missing or wrong, images of pairs are not among the
            records, or there is no such stage.
    """
    records, tested = RecordSet.load(records), read_pairs(pairs)
    if not development and not tested.folds[-1]:
        raise UserError(
            f"{pairs}: a single fold; expected --development=FILE, other pairs to choose the "
            "threshold by"
        )
    taught = read_pairs(development) if development else None
    filenames = [name for split in records.splits for name in records.filenames(split)]
    rows = tested.rows(filenames)
    learned = (taught.rows(filenames), taught.same) if taught else None
    # What is chosen for other images than these.
    fitted_rows, fitted_same = learned or (rows, tested.same)
    from faceattr_tf.features.frozen import FrozenNetwork

    run = network if isinstance(network, Workdir) else None
    of = FrozenNetwork.of_workdir if run else FrozenNetwork.of_recipe
    frozen = of(network, records, layers)
    results, stages = {}, {}

    def measure(name, features, rows, learned):
        options = {"centre": centre, "development": learned}
        results[name] = verify(features, rows, tested.same, tested.folds, **options)
        stages[name] = {"width": features.shape[1], **results[name].figures()}

    for layer, features in frozen.features(flip=flip, progress=progress).items():
        _check_finite(layer, features, filenames)
        measure(layer, features, rows, learned)
        mean = mean_features(features, fitted_rows) if centre else None
        threshold = best_threshold(cosines(features, fitted_rows, mean), fitted_same)
        stages[layer] |= {"threshold": threshold, "mean": mean}
    if pixels:
        shown = np.unique(np.concatenate([rows, fitted_rows]))
        places = [np.searchsorted(shown, one) for one in (rows, fitted_rows)]
        content = frozen.pixels(shown, flip=flip, progress=progress)
        measure(PIXELS, content, places[0], learned and (places[1], fitted_same))
    recipe = frozen.experiment.recipe
    paired = [filenames[row] for row in np.unique(rows)]
    folder = local(output) if output else run and run.path / VERIFICATION
    contents = {
        "folder": folder and str(folder),
        "workdir": run and str(run.path),
        "recipe": recipe.name,
        "network": recipe.model.name,
        "weights": frozen.weights,
        "crop": frozen.experiment.crop.to_dict(),
        "records": {"name": records.name, "path": records.path},
        "pairs": _described(tested) | {"images": len(paired)},
        "development": taught and _described(taught),
        "flip": flip,
        "centre": centre,
        "overlap": run and training_overlap(run, records, paired),
        "stages": stages,
    }
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(plain(contents), indent=1, allow_nan=False)
        write_text(folder / f"{VERIFICATION}.html", html(contents, results))
        write_text(folder / f"{VERIFICATION}.json", text + "\n")
    return contents


def _described(pairs: Pairs) -> dict:
    same = int(pairs.same.sum())
    people = [
        {name.partition("/")[0] for name in pairs.images[pairs.folds == fold].flat}
        for fold in range(pairs.folds[-1] + 1)
    ]
    return {
        "path": str(pairs.path),
        "same": same,
        "different": len(pairs) - same,
        "folds": len(people),
        "people": len(set().union(*people)),
        "people_in_several_folds": sum(map(len, people)) - len(set().union(*people)),
    }


def _check_finite(layer: str, features: np.ndarray, filenames: Sequence[str]) -> None:
    wrong = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(wrong):
        raise UserError(
            f"{layer}: the features of {len(wrong):,} images, such as {filenames[wrong[0]]}, are "
            "not finite"
        )


def table(contents: dict) -> Table:
    """A row for every stage, beside chance."""
    rates = [f"TPR at FPR {rate:.1%}" for rate in FALSE_RATES]
    rows = [
        (
            name,
            f"{stage['width']:,}",
            with_error(stage),
            percent(stage["area"]),
            percent(stage["equal_error"]),
            *(percent(stage["true_rates"][f"{rate:g}"]) for rate in FALSE_RATES),
        )
        for name, stage in contents["stages"].items()
    ]
    chance = ("chance", "", "50.0", "50.0", "50.0", *map(percent, FALSE_RATES))
    header = ("Stage", "Features", "Accuracy", "Area under ROC", "Equal error", *rates)
    note = (
        "In per cent; accuracy with its standard error over folds. TPR: the share of the pairs of "
        "one person that is found where no more of the pairs of two people pass than FPR says."
    )
    return Table(header, (*rows, chance), note=note)


def with_error(stage: dict) -> str:
    """Accuracy in per cent with its standard error over folds, where there are several."""
    error = stage["standard_error"]
    return percent(stage["accuracy"]) + (f" ± {percent(error)}" if error is not None else "")


def about(contents: dict) -> str:
    """How the figures came about."""
    pairs, chosen = contents["pairs"], contents["development"]
    by = f"the pairs of {chosen['path']}" if chosen else "the other folds"
    mean = (
        f", after the mean over the images of {by} was subtracted, without those of the tested fold"
        if contents["centre"]
        else ""
    )
    views = "a picture and its mirror image" if contents["flip"] else "a picture"
    return (
        f"{pairs['same']:,} pairs of one person and {pairs['different']:,} of two, of "
        f"{pairs['images']:,} images, in {pairs['folds']} fold{'s' * (pairs['folds'] > 1)}. The "
        f"score of a pair is the cosine of the features of {views}, maps averaged over their "
        f"places{mean}; the threshold of each fold is the one that judges most of {by} right"
    )


def warnings(contents: dict) -> list[str]:
    """What a reader must know before believing the figures."""
    overlap, pairs, found = contents["overlap"], contents["pairs"], []
    if overlap and overlap["count"]:
        found.append(
            f"{overlap['count']:,} of {pairs['images']:,} images carry the name of an image that "
            f"the model was trained on: the figures are likely too good. One is "
            f"{overlap['filenames'][0]}."
        )
    unchecked = overlap["unchecked"] if overlap else ["what a recipe's weights saw is not known"]
    found += [
        f"Whether these images occur in training was not checked: {why}." for why in unchecked
    ]
    if several := pairs["people_in_several_folds"]:
        found.append(
            f"{several:,} people are in several folds, so that a fold is judged by what its own "
            "people taught."
        )
    return found


def title(contents: dict) -> str:
    """What was measured on what."""
    path = contents["pairs"]["path"]
    return f"{contents['recipe'] or contents['network']} tells people apart, on {path}"


def html(contents: dict, results: dict[str, Verification]) -> str:
    """One page that needs no other file and no network."""
    plots = [
        Plot("ROC", _roc(results), "Over all thresholds; the dotted line is chance."),
        Plot(
            "Scores",
            _histograms(results),
            "Solid: one person; dashed: two people; the grey line is the median threshold.",
        ),
    ]
    return render(
        "analysis.html.jinja",
        title=title(contents),
        facts={
            "Network": contents["network"],
            "Weights": contents["weights"],
            "Workdir": contents["workdir"] or "none",
            "Records": contents["records"]["path"],
            "Crop": ", ".join(f"{key} {value}" for key, value in contents["crop"].items()),
            "Pairs": contents["pairs"]["path"],
        },
        warnings=warnings(contents),
        left_out={},
        sections=[Section("Verification", about(contents), [table(contents)], plots, ())],
    )


def _roc(results: dict[str, Verification]) -> str:
    different = max((~result.same).sum() for result in results.values())
    rates = np.geomspace(1 / different, 1, 200)

    def draw(figure):
        axes = figure.subplots()
        axes.plot(rates, rates, color=GREY, linestyle=":", linewidth=0.9, label="chance")
        for index, (name, result) in enumerate(results.items()):
            style = {"color": SERIES[index % len(SERIES)], "linestyle": ("-", "--")[index // 7 % 2]}
            axes.plot(rates, result.true_rates(rates), drawstyle="steps-post", label=name, **style)
        axes.set(xscale="log", ylim=(-0.02, 1.02))
        axes.set(xlabel="false positive rate", ylabel="true positive rate")
        axes.legend(loc="upper left", fontsize=6.5)

    return svg(draw, 6.5, 4)


def _histograms(results: dict[str, Verification]) -> str:
    columns = min(3, len(results))
    lines = -(-len(results) // columns)

    def draw(figure):
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes in grid.flat[len(results) :]:
            axes.remove()
        for axes, (name, result) in zip(grid.flat, results.items(), strict=False):
            bins = np.histogram_bin_edges(result.scores, 40)
            for same, colour, style in ((True, BLUE, "-"), (False, ORANGE, "--")):
                scores = result.scores[result.same == same]
                axes.hist(scores, bins, histtype="step", color=colour, linestyle=style)
            axes.axvline(np.median(result.thresholds), color=GREY, linewidth=0.9)
            axes.set(title=name, xlabel="cosine", ylabel="pairs")

    return svg(draw, 3.2 * columns, 2.4 * lines)
