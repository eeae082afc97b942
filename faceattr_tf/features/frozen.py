"""Features of a network as it is, of a run or of a recipe, for all images of a record set."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from data_pipelines.errors import UserError
from data_pipelines.input.batches import Source, evaluation_batches, named_failures
from data_pipelines.progress import progress_bar
from data_pipelines.records.record_set import RecordSet
from data_pipelines.tasks import POSE
from faceattr_tf.configs.base import Bottlenecks, Recipe
from faceattr_tf.experiment import Experiment
from faceattr_tf.features.cache import weights_digest
from faceattr_tf.features.extract import extract, feature_function, network_stages
from faceattr_tf.models.create import feature_layer
from faceattr_tf.models.stages import pool_features, stages_named
from faceattr_tf.precision import resolve
from faceattr_tf.resolution import resolve_crop
from faceattr_tf.workdir import MODEL, Workdir


@dataclasses.dataclass(frozen=True)
class FrozenNetwork:
    """A network that nothing is trained of, and the record set that it is shown.

    Attributes:
        experiment: network, weights, crop and records; without tasks.
        layers: stages whose features are wanted, several joined by `+` as one.
        create: what `extract` makes the network by.
    """

    experiment: Experiment
    layers: tuple[str, ...]
    create: Callable

    @classmethod
    def of_workdir(
        cls, workdir: Workdir, records: RecordSet, layers: Sequence[str] = ()
    ) -> "FrozenNetwork":
        """The best model of a run.

        Args:
            workdir: the run's.
            records: whose images it is shown.
            layers: stages that its heads see, several joined by `+`; empty for those they stand on.

        Raises:
            UserError: there is no such stage, or no model.
        """
        recipe, model = workdir.recipe(), workdir.load_model()
        named = tuple(feature_layer(model, recipe.model, layer) for layer in layers or ("",))
        config = dataclasses.replace(
            recipe.model, weights=str(workdir.path / MODEL), layer="", auxiliary_weight=0.0
        )
        recipe = dataclasses.replace(recipe, model=config)
        experiment = _experiment(recipe, records, workdir.crop)
        return cls(experiment, named, functools.partial(loaded_function, model))

    @classmethod
    def of_recipe(
        cls, recipe: Recipe, records: RecordSet, layers: Sequence[str] = ()
    ) -> "FrozenNetwork":
        """The network of a recipe with the weights that it names; random ones are its seed's.

        Args:
            recipe: names network, weights and crop.
            records: whose images it is shown.
            layers: stages of the network, several joined by `+`; empty for the recipe's.

        Raises:
            UserError: there is no such stage, the weights cannot be read, or they are a run's.
        """
        if recipe.warm_start:
            raise UserError(
                f"warm_start {recipe.warm_start}: expected --workdir={recipe.warm_start}, the "
                "network of that run"
            )
        experiment = _experiment(recipe, records, resolve_crop(recipe.data.crop, (records,)))
        stages, name = network_stages(experiment), recipe.model.name
        named = [stages_named(layer, stages, name) for layer in layers or (recipe.model.layer,)]
        # A network is built with heads; which, leaves the features alone.
        create = functools.partial(feature_function, dataclasses.replace(experiment, tasks=(POSE,)))
        return cls(experiment, tuple(map("+".join, named)), create)

    @property
    def weights(self) -> str:
        """What the weights are, in one line that changes when they do."""
        return weights_digest(self.experiment.recipe)

    @property
    def records(self) -> RecordSet:
        """Whose images the network is shown."""
        return self.experiment.record_sets[0]

    def filenames(self) -> list[str]:
        """The images of all splits, in the order of `features`."""
        return [name for split in self.records.splits for name in self.records.filenames(split)]

    def features(self, *, flip: bool = False, progress: bool = True) -> dict[str, np.ndarray]:
        """What the network gives for every image, found on disk or computed and kept there.

        Args:
            flip: the mean of what it gives for a picture and for its mirror image.
            progress: show a bar.

        Returns:
            Stage of `layers` -> float32 `[N, F]`, of maps their means.
        """
        found = self._of_views(False, progress)
        if flip:
            mirrored = self._of_views(True, progress)
            found = {layer: (found[layer] + mirrored[layer]) / 2 for layer in found}
        return found

    def _of_views(self, mirrored: bool, progress: bool) -> dict[str, np.ndarray]:
        parts = [
            extract(
                self.experiment,
                split,
                self.layers,
                mirrored=mirrored,
                progress=progress,
                create=self.create,
            )
            for split in self.records.splits
        ]
        return {
            layer: np.concatenate([one[layer][0].images() for one in parts])
            for layer in self.layers
        }

    def pixels(self, rows: np.ndarray, *, flip: bool = False, progress: bool = True) -> np.ndarray:
        """The crops themselves, in whole grey values.

        Args:
            rows: int `[n]`, places among `filenames`.
            flip: the mean of a picture and its mirror image.
            progress: show a bar.

        Returns:
            uint8 `[n, height * width * 3]`.
        """
        places = {row: place for place, row in enumerate(rows.tolist())}
        pixels = np.empty((len(rows), np.prod(self.experiment.input_shape)), np.uint8)
        start = 0
        with progress_bar(sum(self.records.splits.values()), "image", show=progress) as bar:
            bar.set_description("pixels")
            for split in self.records.splits:
                source = Source(self.records, split)
                batches = evaluation_batches(source, (), self.experiment.view, batch_size=64)
                for batch in named_failures(batches, [source]):
                    images = batch["image"].numpy()
                    images = (images + images[:, :, ::-1]) / 2 if flip else images
                    for row, image in enumerate(np.rint(images), start):
                        if row in places:
                            pixels[places[row]] = image.ravel()
                    start += len(images)
                    bar.update(len(images))
        return pixels


def loaded_function(model: keras.Model, layers: Sequence[str]) -> Callable:
    """A network that was loaded, as `extract.feature_function` gives one that is new.

    Args:
        model: knows its layers, not its stages.
        layers: names of stages.
    """
    outputs = {layer: pool_features(model.get_layer(layer).output) for layer in layers}
    network = functools.partial(keras.Model(model.input, outputs), training=False)
    return tf.function(network, autograph=False)


def _experiment(recipe: Recipe, records: RecordSet, crop) -> Experiment:
    """A recipe's network on whole splits of records, which need neither tasks nor a `train`."""
    data = dataclasses.replace(
        recipe.data,
        records=(records.path,),
        weights=(1.0,),
        validation_share=0.0,
        images_per_person=0,
        crop=crop,
        bottlenecks=Bottlenecks(True, 0, recipe.data.bottlenecks.folder),
    )
    precision = resolve(recipe.precision, recipe.strategy)[0]
    recipe = dataclasses.replace(recipe, data=data, tasks=(), precision=precision)
    return Experiment(recipe, (records,), (), (), crop, (), 1)
