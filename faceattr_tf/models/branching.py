"""Branches: the layers from a stage on that some tasks have for themselves.

Source: Flickr (Baumgartner and Culpepper, "Deep Architectures for Face Attributes"), section 3.2
and figure 1: a task gets a copy of everything above a stage of the network, initialised anew, and
shares with the other tasks what is below, the trunk, which is computed once.

What is above a stage is every layer on which its output does not depend. A copy may thus take more
from the trunk than that output: of a stage inside a residual block the shortcut, too. What it takes
is always what layers give; arithmetic between them, which has no weights, is repeated in the copy.
"""

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence

import keras
from keras import layers, ops

from data_pipelines.errors import UserError
from data_pipelines.tasks import Task, list_labels
from faceattr_tf.models.heads import BOTTLENECK, BRANCH, HEAD_PREFIX, NEW_LAYERS, grow_heads
from faceattr_tf.models.stages import (
    MAP,
    copy_layers,
    join_features,
    pool_stages,
    split_features,
)


@dataclasses.dataclass(frozen=True)
class Branch:
    """What stands on one branch.

    Attributes:
        name: the first task or `task/Label` of its entry; empty for the trunk's own end.
        stage: above which it has layers of its own; empty for the trunk's own end.
        tasks: what it predicts, of a multilabel task perhaps some labels alone.
    """

    name: str
    stage: str
    tasks: tuple[Task, ...]

    @property
    def prefix(self) -> str:
        """What the names of its own layers begin with, those of the whole behind it."""
        return f"{BRANCH}{self.name.replace('/', '_')}_" if self.name else ""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which task stands where.

    Attributes:
        tasks: all of them, whole, in the order of the model.
        branches: those of the recipe, and last, where anything stands there, the trunk's own end.
        parted: names of the tasks whose labels were named one by one.
    """

    tasks: tuple[Task, ...]
    branches: tuple[Branch, ...]
    parted: frozenset[str]

    @classmethod
    def of(
        cls, entries: Sequence, tasks: Sequence[Task], stages: Sequence[str], network: str
    ) -> "Plan":
        """The plan that a recipe's `model.branches` describes.

        Raises:
            UserError: an entry is none, or names a stage, task or label that does not exist or that
                another one has named.
        """
        known = {task.name: task for task in tasks}
        taken, parted, branches = {}, set(), []
        for entry in entries:
            where = f"branches: {entry!r}"
            if isinstance(entry, str) or len(entry) < 2:
                raise UserError(f"{where} is none; expected ('stage', 'task or task/Label', ...)")
            stage, *whats = entry
            if stage not in stages:
                known_stages = ", ".join(stages)
                raise UserError(f"{where}: {stage!r} ends no stage of {network}: {known_stages}")
            own = collections.defaultdict(list)
            for what in whats:
                name, by_label, label = what.partition("/")
                labels = _labels(known, name, label if by_label else None, where)
                parted |= {name} if by_label else set()
                own[name] += labels
                for one in labels:
                    if (name, one) in taken:
                        on = taken[name, one]
                        raise UserError(
                            f"{where}: {name}/{one} stands on the branch {on!r} already"
                        )
                    taken[name, one] = whats[0]
            pieces = [_piece(known[name], labels) for name, labels in own.items()]
            branches.append(Branch(whats[0], stage, tuple(pieces)))
        rest = {
            task: [label for label in task.labels if (task.name, label) not in taken]
            for task in tasks
        }
        pieces = [_piece(task, labels) for task, labels in rest.items() if labels]
        if pieces:
            branches.append(Branch("", "", tuple(pieces)))
        return cls(tuple(tasks), tuple(branches), frozenset(parted))


def _labels(known: Mapping[str, Task], name: str, label: str | None, where: str) -> list[str]:
    """The labels that an entry names: one, or all of a task."""
    task = known.get(name)
    if task is None:
        raise UserError(f"{where}: there is no task {name!r}; there are: {', '.join(known)}")
    if label is None:
        return list(task.labels)
    if task.kind != "multilabel" or label not in task.labels:
        raise UserError(
            f"{where}: {label!r} is no attribute of the task {name!r} ({task.kind}); it has: "
            + list_labels(task.labels)
        )
    return [label]


def _piece(task: Task, labels: Sequence[str]) -> Task:
    return task if list(labels) == list(task.labels) else task.select(labels)


@dataclasses.dataclass(frozen=True)
class Grown:
    """A network with its branches and heads.

    Attributes:
        image: its input; of the new layers alone, flat features.
        outputs: task name -> output, see `grow_heads`.
        features: what the heads see, `[B, F]`, before dropout, branch after branch.
        taps: name for `features_at` -> what branches and heads take from the trunk.
        copies: name of a branch's layer -> name of the layer that it copies.
    """

    image: object
    outputs: dict
    features: object
    taps: dict
    copies: dict[str, str]


def grow_branches(
    image, stages: Mapping, ends: Sequence[str], plan: Plan, dropout: float, *, top: bool = False
) -> Grown:
    """Branches on a network, and heads on them and on the trunk's own end.

    Args:
        image: the network's input.
        stages: what the network gives, as a function of `faceattr_tf.models.MODELS` returns it.
        ends: the stages on which heads stand where there are no branches.
        plan: which task stands where.
        dropout: share of the features that training drops before the heads.
        top: begin at flat features in place of what is taken from the trunk: what trains on
            activations that are stored.
    """
    pooled = pool_stages([stages[end] for end in ends])
    end = join_features(pooled, BOTTLENECK)
    pooled_already = {"", *(ends if len(ends) == 1 else ())}
    taken = {
        branch: dict(zip(ends, pooled, strict=True))
        if branch.stage in pooled_already
        else _frontier(end, image, stages, branch.stage)
        for branch in plan.branches
    }
    taps = {name: tensor for of in taken.values() for name, tensor in of.items()}
    given = taps
    if top:
        size = sum(math.prod(tensor.shape[1:]) for tensor in taps.values())
        image = keras.Input((size,), name="image", dtype="float32")
        given = dict(zip(taps, split_features(image, list(taps.values())), strict=True))
    seen, pieces, copies = [], collections.defaultdict(list), {}
    for branch, frontier in taken.items():
        inputs = [given[name] for name in frontier]
        if branch.stage in pooled_already:
            features = join_features(inputs, BOTTLENECK)
        else:
            features, copied = copy_layers(list(frontier.values()), end, inputs, branch.prefix)
            copies |= copied
        seen.append(features)
        if dropout:
            name = f"{branch.prefix}dropout"
            features = layers.Dropout(dropout, dtype=features.dtype, name=name)(features)
        for piece in branch.tasks:
            prefix = (branch.prefix or BRANCH) if piece.name in plan.parted else ""
            output = grow_heads(features, [piece], prefix=prefix)[piece.name]
            pieces[piece.name].append((piece, output))
    outputs = {
        task.name: _whole(task, pieces[task.name])
        if task.name in plan.parted
        else pieces[task.name][0][1]
        for task in plan.tasks
    }
    return Grown(image, outputs, join_features(seen), taps, copies)


def _frontier(end, image, stages: Mapping, stage: str) -> dict:
    """What the layers between a stage and the network's end take from below it, by tap name."""
    below = set(keras.Function(image, stages[stage]).operations)
    found, seen, queue = {}, set(), [end]
    while queue:
        tensor = queue.pop(0)
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        layer, node, _ = tensor._keras_history
        if layer in below and isinstance(layer, keras.Layer):
            # Features are kept as those are on which heads stand.
            own = layer.name in stages and len(tensor.shape) == 2
            found[layer.name if own else layer.name + MAP] = tensor
        else:
            queue += layer._inbound_nodes[node].input_tensors
    return dict(sorted(found.items()))


def _whole(task: Task, pieces: Sequence):
    """The output of a task whose labels stand in several places, in the order of its labels."""
    labels = [label for piece, _ in pieces for label in piece.labels]
    output = join_features([output for _, output in pieces], f"{BRANCH}{task.name}_labels")
    order = [labels.index(label) for label in task.labels]
    if order != sorted(order):
        output = ops.take(output, order, axis=1)
    return layers.Identity(dtype="float32", name=HEAD_PREFIX + task.name)(output)


def take_weights(model: keras.Model, given: keras.Model, *, copies: bool) -> None:
    """Gives a network with branches, or its new layers alone, the weights of one without.

    Args:
        model: what has branches.
        given: the same network without them; its heads are left.
        copies: give the branches the weights of the layers that they copy, too.
    """
    known = {one.name: one for one in given.layers if not one.name.startswith(NEW_LAYERS)}
    for layer in model.layers:
        name = model.copies.get(layer.name) if copies else None
        source = known.get(name or layer.name)
        if layer.weights and source is not None:
            layer.set_weights(source.get_weights())
