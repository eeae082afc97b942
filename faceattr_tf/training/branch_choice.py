"""What a grid of branches says: the depths that it prefers, what they cost, and runs of them."""

import dataclasses
import pathlib
from collections.abc import Sequence

from data_pipelines.errors import UserError
from faceattr_tf.evaluation.branch_depth import (
    Cell,
    Depth,
    choose_depth,
    compare_depths,
    main_metric,
)
from faceattr_tf.models.create import create_model
from faceattr_tf.training.branch_grid import Grid, joined_tasks
from faceattr_tf.training.cost import multiply_adds
from faceattr_tf.training.loop import train_and_evaluate
from faceattr_tf.training.probe import EVALUATIONS


@dataclasses.dataclass(frozen=True)
class Choice:
    """By the names of groups.

    Attributes:
        depths: what was measured of every stage and start of weights.
        chosen: the one of them that is preferred.
        metrics: by which.
        guesses: what the best answer without images would reach.
        seeds: with which the chosen one was trained.
    """

    depths: dict[str, list[Depth]]
    chosen: dict[str, Depth]
    metrics: dict[str, str]
    guesses: dict[str, float | None]
    seeds: tuple[int, ...]


def choose(grid: Grid, cells: Sequence[Cell]) -> Choice:
    """The depth of every group.

    Args:
        grid: the grid.
        cells: all of its cells.
    """
    depths, chosen, metrics, guesses = {}, {}, {}, {}
    for group in grid.groups:
        own, name = [cell for cell in cells if cell.group == group.name], group.name
        metrics[name] = main_metric(grid.experiments[group].tasks[0])
        depths[name] = compare_depths(own, metrics[name])
        chosen[name] = choose_depth(depths[name], grid.stages, metrics[name])
        guesses[name] = own[0].guess
    seeds = tuple(dict.fromkeys(cell.seed for cell in cells))
    return Choice(depths, chosen, metrics, guesses, seeds)


def describe_costs(grid: Grid, choice: Choice) -> str:
    """What the chosen branches cost, each and all on one trunk, and the flag that names them."""
    lines, entries = [], []
    for group in grid.groups:
        depth = choice.chosen[group.name]
        entry = (depth.stage, *group.whats)
        _, top = _networks(grid, [group], (entry,))
        lines.append(
            f"{group.name}: from {depth.stage}, {depth.weights} weights: {_arithmetic(top)}, "
            f"{top.count_params():,} parameters of its own"
        )
        entries.append(entry)
    try:
        whole, top = _networks(grid, grid.groups, tuple(entries))
    except UserError as error:  # groups that have labels in common
        return "\n".join([*lines, f"not to be joined: {error}"])
    lines.append(
        f"joined: {_arithmetic(whole)}, of which branches {_arithmetic(top)}; "
        f"{whole.count_params():,} parameters"
    )
    return "\n".join([*lines, f'--config.model.branches="{tuple(entries)}"'])


def train_chosen(grid: Grid, choice: Choice, folder: pathlib.Path, *, progress: bool) -> None:
    """Trains every chosen branch in a workdir of its own, as its cell was, for `joining.join`.

    Args:
        grid: the grid.
        choice: what `choose` gave.
        folder: of the workdirs, which are named as their groups.
        progress: show a bar.
    """
    for group in grid.groups:
        depth = choice.chosen[group.name]
        recipe = grid.recipe_of(group, depth.stage, depth.weights, choice.seeds[0])
        steps = grid.experiments[group].phase_ends[-1]
        recipe = dataclasses.replace(recipe, evaluate_steps=max(1, round(steps / EVALUATIONS)))
        train_and_evaluate(recipe, folder / group.name, progress=progress)
    runs = " ".join(str(folder / group.name) for group in grid.groups)
    print(f"faceattr-join --workdir={folder / 'joined'} {runs}")


def _networks(grid: Grid, groups: Sequence, entries: tuple) -> tuple:
    """The network of some groups with these branches, and its branches and heads alone."""
    experiment = grid.experiments[groups[0]]
    model = dataclasses.replace(experiment.recipe.model, branches=entries, branch_weights="new")
    experiment = dataclasses.replace(
        experiment,
        recipe=dataclasses.replace(experiment.recipe, model=model),
        tasks=joined_tasks(grid.experiments[group].tasks[0] for group in groups),
    )
    return create_model(experiment, "float32"), create_model(experiment, "float32", top=True)


def _arithmetic(model) -> str:
    """Multiply-adds of a model, and the same with multiplications and additions counted apart."""
    count = multiply_adds(model)
    return f"{count / 1e6:,.1f} million multiply-adds ({2 * count / 1e9:.3f} GFLOP)"
