"""Whose a workdir is: a new run takes it, the same run goes on in it, another one is refused."""

import copy
import dataclasses

from data_pipelines.errors import UserError
from data_pipelines.files import local
from data_pipelines.records.record_set import RecordSet
from faceattr_tf.configs.base import Phase, Recipe
from faceattr_tf.experiment import Experiment, phase_length
from faceattr_tf.precision import resolve
from faceattr_tf.training.optimizers import create_learning_rate
from faceattr_tf.workdir import VALIDATION, Workdir

FINISHED = ("calibration.json", "model_card.md")
"""What only a run that has ended leaves behind."""


def as_begun(recipe: Recipe, workdir: Workdir) -> Recipe:
    """The recipe as the workdir's run was begun, in what depends on machine and version.

    Where a run that is begun here and now would differ, that is said.
    """
    if not (workdir.path / "config.json").is_file():
        return recipe
    begun = workdir.recipe()
    if recipe.precision == "auto":
        here, reason = resolve("auto", recipe.strategy)
        if begun.precision != here:
            print(
                f"{workdir.path}: goes on in {begun.precision}; begun here, it would be {here}, "
                f"since {reason}"
            )
        recipe = dataclasses.replace(recipe, precision=begun.precision)
    if recipe.data.validation_by_person and not begun.data.validation_by_person:
        records = map(RecordSet.load, recipe.data.records)
        share = (begun.data.validation_share, begun.data.validation_of_training)
        if any(one.people and one.lends(*share) for one in records):
            print(f"{workdir.path}: goes on with a validation share of the images, as it was begun")
        data = dataclasses.replace(recipe.data, validation_by_person=False)
        recipe = dataclasses.replace(recipe, data=data)
    return recipe


def check_claim(workdir: Workdir, experiment: Experiment, *, extend: bool = False) -> bool:
    """Makes sure that the workdir may be claimed, and writes nothing; for the rest see `claim`.

    Returns:
        Whether the run that it holds becomes a longer one.
    """
    if not (workdir.path / "config.json").exists():
        if extend:
            raise UserError(f"workdir {workdir.path} holds no run that could be extended")
        return False
    _check_records(workdir, experiment.describe_records())
    stored = workdir.recipe()
    configs = stored.to_dict(), experiment.recipe.to_dict()
    if difference := first_difference(*map(_deciding, configs)):
        _check_longer(workdir, stored, experiment, difference, extend)
    return bool(difference)


def claim(workdir: Workdir, experiment: Experiment, *, extend: bool = False) -> None:
    """Takes the workdir for this experiment, or continues the one that it holds.

    Records are the same where their fingerprints are, wherever they lie and however their folder is
    called.

    Args:
        workdir: the workdir of the run.
        experiment: what is to be trained.
        extend: go on with a run whose last phase has become longer.

    Raises:
        UserError: it holds another recipe's run or one on other records, the last phase is longer
            and nobody asked to extend it, or the folder cannot be written.
    """
    if check_claim(workdir, experiment, extend=extend):
        _extend(workdir, experiment)
    elif not (workdir.path / "config.json").exists():
        try:
            workdir.path.mkdir(parents=True, exist_ok=True)
            workdir.write_json("metadata.json", experiment.metadata())
            workdir.write_json("config.json", experiment.recipe.to_dict())
        except OSError as error:
            raise UserError(
                f"workdir {workdir.path} cannot be written: {error.strerror}"
            ) from error


def _check_records(workdir: Workdir, found: list[dict]) -> None:
    def known(entries: list[dict]) -> list[str]:
        return [one["fingerprint"] or str(local(one["path"]).resolve()) for one in entries]

    begun = workdir.metadata()["records"]
    if known(begun) != known(found):
        raise UserError(
            f"workdir {workdir.path}: its records have been built anew since, or are others: begun "
            f"on {', '.join(one['path'] for one in begun)}, now "
            + ", ".join(one["path"] for one in found)
        )


def _deciding(config: dict) -> dict:
    """What decides a run, without what files are called, where they are kept, and who computes."""
    config = copy.deepcopy(config)
    del config["data"]["records"], config["data"]["bottlenecks"]["folder"]
    del config["strategy"], config["data"]["service"]
    lists = (config, "warm_start"), (config["distillation"], "teachers")
    for part, name in ((config["model"], "weights"), (config["slices"], "answers"), *lists):
        if part[name] not in ("", "imagenet"):
            paths = part[name].split(",") if name in ("warm_start", "teachers") else [part[name]]
            part[name] = ",".join(str(local(path).resolve()) for path in paths)
    config["model"]["trunks"] = [
        (name, str(local(file).resolve()) if file not in ("", "imagenet") else file)
        for name, file in config["model"]["trunks"]
    ]
    return config


def first_difference(stored, asked, where: str = "config") -> str:
    """In words, the first field in which two configurations differ; empty where they do not."""
    if isinstance(stored, dict) and isinstance(asked, dict):
        for key in stored:
            if difference := first_difference(stored[key], asked.get(key), f"{where}.{key}"):
                return difference
        return ""
    if isinstance(stored, list | tuple) and isinstance(asked, list | tuple):
        if len(stored) != len(asked):
            return f"{where} has {len(stored)} entries there and {len(asked)} here"
        for index, (left, right) in enumerate(zip(stored, asked, strict=True)):
            if difference := first_difference(left, right, f"{where}[{index}]"):
                return difference
        return ""
    return "" if stored == asked else f"{where} is {stored!r} there and {asked!r} here"


def _check_longer(
    workdir: Workdir, stored: Recipe, experiment: Experiment, difference: str, extend: bool
) -> None:
    """Raises UserError unless all that differs is a longer last phase, and it may be extended."""
    other = f"workdir {workdir.path} belongs to another run: {difference}"
    anew = f"a new workdir with --config.warm_start={workdir.path} begins with its model"
    begun, asked = stored.phases[-1], experiment.recipe.phases[-1]
    as_long = dataclasses.replace(asked, steps=begun.steps, epochs=begun.epochs)
    same = dataclasses.replace(experiment.recipe, phases=(*experiment.recipe.phases[:-1], as_long))
    if first_difference(_deciding(stored.to_dict()), _deciding(same.to_dict())):
        raise UserError(
            f"{other}; choose another --workdir or the recipe that it was begun with; {anew}"
        )
    per_epoch = experiment.steps_per_epoch
    if phase_length(asked, per_epoch) < phase_length(begun, per_epoch):
        raise UserError(f"{other}; a run can become longer, not shorter; {anew}")
    if not extend:
        raise UserError(f"{other}; --extend goes on with the longer phase; {anew}")


def _extend(workdir: Workdir, experiment: Experiment) -> None:
    """Makes the workdir's run a longer one that has not ended yet, and says what changes.

    The configuration comes last: until then the workdir is the shorter run's, which ends again.
    """
    begun, asked = workdir.recipe().phases[-1], experiment.recipe.phases[-1]
    lengths = [phase_length(phase, experiment.steps_per_epoch) for phase in (begun, asked)]
    end = experiment.phase_ends[-1] - lengths[1] + lengths[0]
    print(
        f"{workdir.path}: phase {asked.name!r} goes on to step {experiment.phase_ends[-1]:,} "
        f"instead of {end:,}"
    )
    if asked.schedule != "constant":
        rates = [_rate(begun, length, lengths[0]) for length in lengths]
        print(
            f"its {asked.schedule} schedule now spans {lengths[1]:,} steps: at step {end:,} the "
            f"learning rate is {rates[1]:.3g} where it was {rates[0]:.3g}; the run does not end as "
            "one that was this long from the start"
        )
    workdir.write_json("metadata.json", experiment.metadata())
    for name in (*FINISHED, VALIDATION):
        (workdir.path / name).unlink(missing_ok=True)
    workdir.write_json("config.json", experiment.recipe.to_dict())


def _rate(phase: Phase, length: int, step: int) -> float:
    rate = create_learning_rate(phase, length)
    return float(rate(step)) if callable(rate) else rate
