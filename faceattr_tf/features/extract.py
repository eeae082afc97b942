"""What a frozen network gives for every image, computed once, and batches for training on it.

Source: KTH-MTFL ("Prediction of Attributes"), section 3.3: the features of the layer before the
output ("bottlenecks") are kept, and a new top is trained on them alone.
"""

import collections
import contextlib
import dataclasses
import functools
import itertools
import math
import pathlib
from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np
import tensorflow as tf

from data_pipelines.errors import UserError
from data_pipelines.input.augment import Augment, RandomCopy
from data_pipelines.input.batches import evaluation_batches as image_batches
from data_pipelines.input.batches import named_failures
from data_pipelines.input.labels import label_places
from data_pipelines.input.people import class_people, has_people, identity_labels, people_apart
from data_pipelines.input.stream import Source
from data_pipelines.progress import progress_bar
from faceattr_tf.experiment import Experiment
from faceattr_tf.features.batches import Features
from faceattr_tf.features.cache import BLOCK, LABELS, Cache, check_space, weights_digest
from faceattr_tf.models import stage_names
from faceattr_tf.models.auxiliary import AUXILIARY_INPUT, AUXILIARY_STAGE
from faceattr_tf.models.create import (
    frozen_layers,
    model_options,
    pretrained_model,
    without_branches,
)
from faceattr_tf.models.stages import MAP, features_at, stages_named

BATCH = 64
"""Images of a forward pass; blocks are multiples of it."""


def for_run(experiment: Experiment, *, progress: bool = True) -> dict[str, list[Features]]:
    """The features in place of the images that a run trains and validates on.

    Returns:
        `train` and `validation` -> the features of every source.

    Raises:
        UserError: see `extract`.
    """
    layer = frozen_layers(experiment)
    return {
        split: extract(experiment, split, (layer,), progress=progress)[layer]
        for split in ("train", "validation")
    }


def for_new_layers(experiment: Experiment, *, progress: bool = True) -> list[Features]:
    """What the new layers of the recipe's network learn from in a phase of their own.

    Returns:
        Per source of the training split the input of `faceattr_tf.models.stages.new_layers_of` for
        the images themselves.

    Raises:
        UserError: see `extract`.
    """
    recipe = experiment.recipe
    own = dataclasses.replace(recipe.data.bottlenecks, copies=0)
    unchanged = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, bottlenecks=own))
    layer = frozen_layers(experiment)
    if recipe.model.auxiliary_weight:
        layer = f"{layer or network_stages(experiment)[-1]}+{AUXILIARY_INPUT}"
    experiment = dataclasses.replace(experiment, recipe=unchanged)
    return extract(experiment, "train", (layer,), progress=progress)[layer]


def extract(
    experiment: Experiment,
    split: str,
    layers: Sequence[str] | None = None,
    *,
    mirrored: bool = False,
    progress: bool = True,
    create: Callable | None = None,
) -> dict[str, list[Features]]:
    """The features of all examples of a split, from the cache where it has them.

    What is missing is computed, all layers in one pass, and kept: whole stored splits, so that
    another validation share, seed or task finds them. An interrupted computation goes on where it
    was. One line says what was found and what is computed.

    Args:
        experiment: its sources give the examples; the training split also has as many randomly
            changed copies as the recipe asks for.
        split: "train", "validation", "test" or whatever the records have.
        layers: stages of the network whose features are wanted, several joined by `+`, see
            `faceattr_tf.models.stages.stages_named`; empty for the last. `AUXILIARY_INPUT`: what
            the auxiliary classifier sees. A layer's name with `MAP` behind it: what it gives,
            flat. None: the recipe's layer.
        mirrored: the features of the mirrored crops, without changed copies.
        progress: show a bar with images per second and the time that is left.
        create: makes `images [B, h, w, 3] -> {layer: features [B, F]}` from the names of layers,
            once something is missing; by default `feature_function` of the experiment.

    Returns:
        For each of `layers` the features of every source of the split, in stored order.

    Raises:
        UserError: the network or one of its layers cannot be had, the recipe has options that make
            no sense with features, an image is damaged, or the cache cannot be written.
    """
    recipe = experiment.recipe
    _check(experiment)
    layers = (recipe.model.layer,) if layers is None else layers
    stages = network_stages(experiment)
    known = (*stages, *([AUXILIARY_INPUT] if AUXILIARY_STAGE in stages else []))
    known += tuple(name for layer in layers for name in layer.split("+") if name.endswith(MAP))
    named = {layer: stages_named(layer or stages[-1], known, recipe.model.name) for layer in layers}
    wanted = tuple(dict.fromkeys(itertools.chain(*named.values())))
    sources = experiment.sources(split)
    places = label_places(sources, experiment.tasks)
    weights = weights_digest(recipe)
    copies = recipe.data.bottlenecks.copies if split == "train" and not mirrored else 0
    parts, chosen = {}, []
    for source in sources:
        if not source.count:
            raise UserError(f"{source.records.path}: split {split!r} holds no examples")
        stored, mask = source.select()
        whole = Source(source.records, stored)
        own = []
        for copy in range(copies + 1):
            part = _Part.of(experiment, whole, wanted, copy, weights, mirrored)
            # Sources may share their records, and lie in the same cache.
            own.append(parts.setdefault(part.name, part))
        chosen.append((own, mask))
    create = create or functools.partial(feature_function, experiment)
    _complete(experiment, list(parts.values()), create, progress)
    found = {
        layer: [
            Features.of(
                experiment.tasks,
                [[part.caches[stage].features for stage in ends] for part in own],
                [part.blocks[ends[0]] for part in own],
                mask,
                {name: rows[index] for name, rows in places.items()},
            )
            for index, (own, mask) in enumerate(chosen)
        ]
        for layer, ends in named.items()
    }
    return {layer: _with_people(parts, sources, experiment) for layer, parts in found.items()}


def _with_people(
    parts: Sequence[Features], sources: Sequence[Source], experiment: Experiment
) -> list[Features]:
    """The features with people of different numberings told apart, and the classes of people."""
    known = {
        task.name: class_people(sources, task)
        for task in experiment.tasks
        if has_people(task, experiment.record_sets)
    }
    found = []
    for part, apart in zip(parts, people_apart(sources), strict=True):
        numbers = np.where(part.identities < 0, part.identities, part.identities + apart)
        labels = {
            name: np.repeat(identity_labels(people, numbers).numpy()[:, None], part.copies, axis=1)
            for name, people in known.items()
        }
        found.append(
            dataclasses.replace(part, identities=numbers, labels={**part.labels, **labels})
        )
    return found


def _check(experiment: Experiment) -> None:
    config, data = experiment.recipe.model, experiment.recipe.data
    if config.transformer:
        raise UserError(
            f"bottlenecks: the transformer {config.transformer!r} needs images to learn from"
        )
    if data.bottlenecks.copies < 0:
        raise UserError(f"bottlenecks.copies {data.bottlenecks.copies} must be 0 or more")
    if data.bottlenecks.copies and data.augment == Augment():
        raise UserError(
            f"bottlenecks.copies {data.bottlenecks.copies}: data.augment changes nothing, so that "
            "all copies would be the same"
        )
    if data.bottlenecks.map_type not in ("float16", "float32"):
        raise UserError(
            f"bottlenecks.map_type {data.bottlenecks.map_type!r}: expected float16 or float32"
        )
    data.augment.check()


def network_stages(experiment: Experiment) -> tuple[str, ...]:
    """The stages of the recipe's network, first to last.

    Raises:
        UserError: there is no such network, or it cannot be built.
    """
    config = experiment.recipe.model
    return stage_names(config.name, experiment.input_shape, **model_options(config))


def feature_function(experiment: Experiment, layers: Sequence[str]) -> Callable:
    """The recipe's network as a compiled `images [B, h, w, 3] -> {layer: features [B, F]}`.

    Args:
        experiment: gives network, weights and precision.
        layers: names of stages, as `features_at` takes them.
    """
    experiment = without_branches(experiment)
    recipe, stages = experiment.recipe, network_stages(experiment)
    ends = {layer.removesuffix(MAP) for layer in layers}
    ends = {AUXILIARY_STAGE if layer == AUXILIARY_INPUT else layer for layer in ends}
    if ends <= set(stages):  # nothing behind them is needed
        last = max(ends, key=stages.index)
        recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, layer=last))
    model = pretrained_model(dataclasses.replace(experiment, recipe=recipe), recipe.precision)
    outputs = {layer: features_at(model, layer) for layer in layers}
    network = functools.partial(keras.Model(model.input, outputs), training=False)
    return tf.function(network, autograph=False)


@dataclasses.dataclass
class _Part:
    """One copy of a stored split: per layer its cache, and the labels of the blocks it has."""

    source: Source
    copy: int
    mirrored: bool
    caches: dict[str, Cache]
    blocks: dict[str, list]

    @classmethod
    def of(cls, experiment, source, layers, copy, weights, mirrored) -> "_Part":
        caches = {
            layer: Cache.of(experiment, source, layer, copy, weights, mirrored) for layer in layers
        }
        blocks = {layer: [None] * cache.blocks for layer, cache in caches.items()}
        return cls(source, copy, mirrored, caches, blocks)

    @property
    def name(self) -> tuple:
        return tuple(cache.folder for cache in self.caches.values())

    def read(self) -> None:
        """Reads what the cache has and is not at hand."""
        for layer, blocks in self.blocks.items():
            for index, block in enumerate(blocks):
                if block is None:
                    blocks[index] = self.caches[layer].read(index)

    def incomplete(self) -> list[str]:
        """The layers of which blocks are missing."""
        return [layer for layer, blocks in self.blocks.items() if None in blocks]

    def missing(self) -> list[int]:
        """The blocks that are missing of any layer."""
        columns = zip(*self.blocks.values(), strict=True)
        return [index for index, column in enumerate(columns) if None in column]

    def size(self, indices: Iterable[int]) -> int:
        """Images in these blocks."""
        return sum(min(BLOCK, self.source.count - index * BLOCK) for index in indices)

    def space(self, widths: dict[str, int]) -> dict[pathlib.Path, int]:
        """Bytes that what is missing takes, by folder, given the features of an image per layer."""
        needed = collections.Counter()
        for layer in self.incomplete():
            cache, blocks = self.caches[layer], self.blocks[layer]
            rows = self.size(index for index, block in enumerate(blocks) if block is None)
            needed[cache.folder.parent] += rows * widths[layer] * cache.dtype.itemsize
        return needed

    def compute(self, experiment: Experiment, network: Callable, bar) -> None:
        """Computes and keeps what is missing."""
        missing, recipe = self.missing(), experiment.recipe
        changes = RandomCopy(recipe.data.augment, recipe.seed, self.copy) if self.copy else None
        options = tf.data.Options()
        # With tuning, the end of a slow pass now and then waits for the tuner, for up to a minute.
        options.autotune.enabled = False
        for _, run in itertools.groupby(enumerate(missing), lambda pair: pair[1] - pair[0]):
            indices = [index for _, index in run]
            batches = image_batches(
                self.source,
                self.source.records.tasks,
                experiment.view,
                batch_size=BATCH,
                flip=self.mirrored,
                copy=changes,
                start=indices[0] * BLOCK,
            )
            batches = named_failures(batches.with_options(options), [self.source])
            for index in indices:
                rows = []
                for batch in itertools.islice(batches, BLOCK // BATCH):
                    rows.append(self._arrays(batch, network(batch["image"])))
                    bar.update(len(batch["filename"]))
                self._keep(index, rows)

    def _arrays(self, batch: dict, features: dict) -> tuple[dict, dict]:
        """What is kept of a batch: labels, names and transforms; and the features of each layer."""
        common = {LABELS + name: label.numpy() for name, label in batch["labels"].items()}
        common["transform"] = batch["transform"].numpy()
        common["identity"] = batch["identity"].numpy()
        common["filename"] = batch["filename"].numpy().astype(bytes)
        found = {}
        for layer, value in features.items():
            value, kind = np.asarray(value, np.float32), self.caches[layer].dtype
            if len(value) != len(common["filename"]):
                raise UserError(
                    f"layer {layer!r} gives {len(value)} rows for {len(common['filename'])} images, "
                    "which cannot be kept; expected a run on images"
                )
            if kind == np.float16 and np.abs(value).max() > np.finfo(kind).max:
                raise UserError(
                    f"layer {layer!r} gives {np.abs(value).max():.4g}, more than float16 holds; "
                    "expected --config.data.bottlenecks.map_type=float32"
                )
            found[layer] = value.astype(kind)
        return common, found

    def _keep(self, index: int, rows: list[tuple[dict, dict]]) -> None:
        common = _concatenate([common for common, _ in rows])
        for layer in rows[0][1]:
            if self.blocks[layer][index] is None:
                features = np.concatenate([features[layer] for _, features in rows])
                self.caches[layer].write(index, features, common)
                self.blocks[layer][index] = common


def _concatenate(rows: list[dict]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _complete(experiment: Experiment, parts: list[_Part], create, progress: bool) -> None:
    """Reads all parts and computes what the cache does not have."""
    for part in parts:
        part.read()
    with contextlib.ExitStack() as stack:
        incomplete = [part for part in parts if part.missing()]
        caches = [part.caches[layer] for part in incomplete for layer in part.incomplete()]
        # Always in the same order, so that two processes never wait for each other.
        for cache in sorted(caches, key=lambda cache: cache.folder):
            stack.enter_context(cache.exclusive())
        for part in incomplete:
            part.read()  # Another process may have computed them meanwhile.
        layers = sorted({layer for part in incomplete for layer in part.incomplete()})
        total = sum(part.source.count for part in parts)
        rest = sum(part.size(part.missing()) for part in parts)
        names = ", ".join(sorted({layer for part in parts for layer in part.caches}))
        folders = ", ".join(
            sorted({str(c.folder.parent) for p in parts for c in p.caches.values()})
        )
        print(
            f"bottlenecks ({names}): {total - rest:,} of {total:,} images found in {folders}"
            + (f"; {rest:,} are computed" if rest else "")
        )
        if not rest:
            return
        network = _checking_space(create(layers), incomplete)
        with progress_bar(rest, "image", show=progress) as bar:
            bar.set_description("bottlenecks")
            for part in incomplete:
                part.compute(experiment, network, bar)


def _checking_space(network: Callable, parts: list[_Part]) -> Callable:
    """The network, its first features telling whether the disk has room for all that are missing.

    Raises:
        UserError: it has not; nothing has been written then.
    """
    checked = False

    def measured(images):
        nonlocal checked
        features = network(images)
        if not checked:
            widths = {name: math.prod(of.shape[1:]) for name, of in features.items()}
            needed = collections.Counter()
            for part in parts:
                needed.update(part.space(widths))
            check_space(needed, aloud=any(layer.endswith(MAP) for layer in widths))
            checked = True
        return features

    return measured
