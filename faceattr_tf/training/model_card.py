"""The model card of a run: what it was trained on, how well it does, where it ends."""

from data_pipelines.tasks import SENSITIVE, list_labels
from faceattr_tf.configs.base import Recipe

_LIMITS = """\
- The labels are the annotators' judgements of pictures, not facts about people; attributes such as
  `Attractive` or `Male` carry the views of those who labelled them.
- Accuracy differs between groups of people, poses, light and cameras. Measure it on data of the
  intended use with `faceattr-evaluate` before relying on it.
- Probabilities were calibrated on the validation split; on other data they may be off.
- The network expects the crop below. Other crops give other, usually worse, numbers.
- Not for decisions about persons, identification or surveillance."""


_GROUPS = """\
- {names}: what others took the people on pictures for, by looks and in a few coarse groups, and not
  how they describe themselves. Answered only when asked for by name; look at false positives first."""


def model_card(recipe: Recipe, metadata: dict, parameters: int) -> str:
    """Markdown: data and licences, model, validation metrics, limits.

    Args:
        recipe: the recipe as resolved.
        metadata: the workdir's metadata with the best validation row in `best`.
        parameters: number of the model's parameters.
    """
    best = metadata["best"]
    lines = [f"# Model card: {recipe.name}", "", "## Model", ""]
    lines.append(
        f"`{recipe.model.name}`, {parameters:,} parameters, trained for {metadata['steps']:,} steps "
        f"of {recipe.data.batch_size} images, seed {recipe.seed}; this is the model of step "
        f"{best['step']:,}, the best by `{recipe.best_metric}` on validation."
    )
    for path in recipe.warm_starts:
        lines.append(f"Initial weights came from `{path}`; its licence applies too.")
    for path in recipe.teachers:
        lines.append(f"Soft labels came from `{path}`; its licence applies too.")
    if recipe.slices.by:
        lines.append(
            f"Images weighed by their slice, `{recipe.slices.by}`: {recipe.slices.method}."
        )
    crop = ", ".join(f"{key} {value}" for key, value in metadata["crop"].items())
    lines += ["", f"Input: RGB in 0…255, cropped by: {crop}.", "", "Predicts:", ""]
    for task in metadata["tasks"]:
        lines.append(f"- `{task['name']}` ({task['kind']}): {list_labels(task['labels'])}")
    lines += ["", "## Data", "", "| records | splits | licence |", "|---|---|---|"]
    for records in metadata["records"]:
        splits = ", ".join(f"{name} {count:,}" for name, count in records["splits"].items())
        lines.append(f"| {records['name']} | {splits} | {records['licence'] or 'not stated'} |")
    lines += [
        "",
        "The weights inherit the terms of the data: images that are licensed for research only give",
        "a model for research only.",
        "",
        "## Validation",
        "",
        "| metric | value |",
        "|---|---|",
    ]
    for name, value in best.items():
        if name.startswith("validation/"):
            lines.append(f"| {name.removeprefix('validation/')} | {value:.4f} |")
    lines += ["", "## Limits", "", _LIMITS]
    if names := [f"`{task['name']}`" for task in metadata["tasks"] if task["name"] in SENSITIVE]:
        lines.append(_GROUPS.format(names=", ".join(names)))
    lines.append("")
    return "\n".join(lines)
