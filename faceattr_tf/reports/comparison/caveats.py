"""Reasons why a difference between conditions may have another cause than the one looked for."""

from collections.abc import Mapping, Sequence

from faceattr_tf.configs.base import Recipe

PLACES = ("data.records", "data.bottlenecks.folder")
"""Names of folders: what the records are is compared by their fingerprints."""


def differing(recipes: Mapping[str, Recipe], left_out: Sequence[str] = ("name", "seed")) -> dict:
    """What recipes do not agree in.

    Args:
        recipes: key -> recipe.
        left_out: fields that may differ.

    Returns:
        Dotted name of the field, tasks and phases by their name -> key -> value. Of a phase or task
        that only some have, the name alone is listed.
    """
    flat = {key: _flat(recipe.to_dict()) for key, recipe in recipes.items()}
    names = dict.fromkeys(name for fields in flat.values() for name in fields)
    found = {}
    for name in names:
        values = {key: fields.get(name) for key, fields in flat.items()}
        everywhere = all(name in fields for fields in flat.values())
        shown = (everywhere or name.endswith("].name")) and name not in (*left_out, *PLACES)
        if shown and len({repr(value) for value in values.values()}) > 1:
            found[name] = values
    return found


def _flat(value, where: str = "") -> dict:
    """`{"phases": [{"name": "a", "steps": 1}]}` as `{"phases[a].name": "a", ...}`."""
    if isinstance(value, dict):
        parts = [(f"{where}.{key}" if where else key, item) for key, item in value.items()]
    elif isinstance(value, list | tuple) and value and isinstance(value[0], dict):
        parts = [(f"{where}[{item.get('name', place)}]", item) for place, item in enumerate(value)]
    else:
        return {where: value}
    return {name: leaf for key, item in parts for name, leaf in _flat(item, key).items()}


def caveats(recipes: Mapping[str, Sequence[Mapping[str, Recipe]]], contents: dict) -> list[str]:
    """What a reader must know before believing the differences.

    Args:
        recipes: condition -> workdir -> recipe, once for the workdirs of every part of a run: those
            that differ in their seed only.
        contents: what `faceattr_tf.reports.comparison.compare.compare` returns, but for the
            warnings.
    """
    from faceattr_tf.reports.page import warnings

    found: dict[str, list[str]] = {}
    trained = set()
    entries = [(name, entry) for name, of in contents["conditions"].items() for entry in of]
    for condition, entry in entries:
        trained.add(tuple(sorted(str(part.get("fingerprint")) for part in entry["trained_on"])))
        alone = {"overlap": entry["overlap"], "data": contents["data"], "model": entry, "tasks": {}}
        for text in warnings(alone):
            found.setdefault(text, []).append(f"{condition} ({entry['workdir']})")
    said = [
        text if len(owners) == len(entries) else f"{'; '.join(owners)}: {text}"
        for text, owners in found.items()
    ]
    if len(trained) > 1:
        said.append("The runs were not all trained on the same records.")
    single = [condition for condition, of in recipes.items() if len(of[0]) == 1]
    if len(single) == len(recipes) and contents["bootstrap"]:
        said.append("No condition has two runs: no interval holds what another seed changes.")
    elif single and contents["bootstrap"]:
        said.append(
            f"One run only: {', '.join(single)}. What another seed changes there is taken to be "
            "what it changes in the other conditions."
        )
    for condition, parts in recipes.items():
        names = (differing(of, left_out=("name", "seed", "warm_start")) for of in parts)
        if names := list(dict.fromkeys(name for found in names for name in found)):
            said.append(f"The runs of {condition} differ beyond their seed, in {', '.join(names)}.")
        if any(len({recipe.seed for recipe in of.values()}) < len(of) for of in parts):
            said.append(f"Runs of {condition} share a seed: they are not independent.")
    return said
