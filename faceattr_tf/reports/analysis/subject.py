"""What is analysed: a run's model and a split of records, with the settings of all figures."""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.records.record_set import RecordSet
from data_pipelines.tasks import Task
from faceattr_tf.evaluation.explanation import explained_tasks
from faceattr_tf.evaluation.split import share_tasks, validation_part
from faceattr_tf.reports.page import Section
from faceattr_tf.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the figures of an analysis are made with.

    Attributes:
        images: images, chosen at random, over which regions are averaged, or in which faces are
            looked for.
        map_layer: stage whose maps the gradients are taken to; empty for that of `map_stage`.
        layer: stage whose features are looked at; empty for what the heads see.
        neurons: numbers of features that are shown; empty for those that vary most.
        groups: how many groups attributes are parted into.
        stages: stages that are compared, several joined by `+` as one; empty for the last ones.
        shares: shares of the training examples that heads are fitted to.
        localisers: what finds faces beside the run's own network: `mtcnn`, or workdirs of LNets, that
            of LNet_o and that of LNet_s joined by `+`.
        classifier: workdir of the network whose time for the attributes of a face is measured.
        bootstrap: resamples for the 95 % intervals.
        seed: seed of every choice.
        batch_size: images per forward pass.
        progress: show bars.
    """

    images: int = 200
    map_layer: str = ""
    layer: str = ""
    neurons: tuple[int, ...] = ()
    groups: int = 6
    stages: tuple[str, ...] = ()
    shares: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5, 1.0)
    localisers: tuple[str, ...] = ("mtcnn",)
    classifier: str = ""
    bootstrap: int = 1000
    seed: int = 0
    batch_size: int = 64
    progress: bool = True


@dataclasses.dataclass(frozen=True)
class Finding:
    """A figure as the page shows it, and its numbers for JSON."""

    section: Section
    numbers: dict


@dataclasses.dataclass(frozen=True)
class Subject:
    """A run's model and the split that it is analysed on."""

    workdir: Workdir
    records: RecordSet
    split: str
    settings: Settings

    @functools.cached_property
    def model(self):
        """The workdir's best model."""
        return self.workdir.load_model()

    @functools.cached_property
    def tasks(self) -> list[Task]:
        """The model's tasks of attributes and classes that the records share.

        Raises:
            UserError: there is none.
        """
        names = [task.name for task in share_tasks(self.workdir.tasks, self.records)[0]]
        tasks = explained_tasks([task for task in self.workdir.tasks if task.name in names])
        if not tasks:
            raise UserError(
                f"{self.records.path}: no attributes or classes are shared with the model"
            )
        return tasks

    @property
    def labels(self) -> list[str]:
        """The labels of `tasks`, one behind the other; `TASK/LABEL` where several have it."""
        names = [label for task in self.tasks for label in task.labels]
        return [
            label if names.count(label) == 1 else f"{task.name}/{label}"
            for task in self.tasks
            for label in task.labels
        ]

    @property
    def count(self) -> int:
        """Images of the split."""
        return self.records.count(self.split, *validation_part(self.workdir, self.records))

    def batches(self) -> Iterator[dict]:
        """The whole split in stored order, with the labels of `tasks` where there are any."""
        from data_pipelines.input.batches import Source, evaluation_batches, named_failures

        source = Source(self.records, self.split, *validation_part(self.workdir, self.records))
        try:
            tasks = self.tasks
        except UserError:
            tasks = ()  # there are figures of images alone
        batches = evaluation_batches(
            source, tasks, self.workdir.view, batch_size=self.settings.batch_size
        )
        return named_failures(batches, [source])

    @functools.cached_property
    def known(self) -> np.ndarray:
        """What is known of each of `labels` for every image of the split: int `[N, L]`, 1, 0, -1."""
        return np.concatenate([self._known(batch) for batch in self.batches()])

    def layer(self, layer: str = "") -> str:
        """The stages of that name, or those that the heads stand on; see `feature_layer`."""
        from faceattr_tf.models.create import feature_layer

        return feature_layer(self.model, self.workdir.recipe().model, layer)

    @functools.cached_property
    def _responses(self) -> dict[str, np.ndarray]:
        return {}

    def responses(self, layer: str) -> np.ndarray:
        """What a stage gives for every image of the split, of maps their means: `[N, F]`.

        Args:
            layer: what `Subject.layer` gave.
        """
        from faceattr_tf.evaluation.inference import predict_outputs
        from faceattr_tf.models.create import feature_network

        if layer not in self._responses:
            batches = ({**batch, "labels": {}} for batch in self.batches())
            outputs = predict_outputs(feature_network(self.model, layer), batches)[0]
            self._responses[layer] = outputs["features"]
        return self._responses[layer]

    def sample(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Images of the split, chosen at random by the seed.

        Returns:
            Images float32 `[n, H, W, 3]`, no more than `count`, in stored order; and what is known
            of each of `labels`: int `[n, L]`, 1 yes, 0 no, -1 unknown.
        """
        order = np.random.default_rng(self.settings.seed).permutation(self.count)
        chosen, start, images, labels = np.sort(order[:count]), 0, [], []
        for batch in self.batches():
            size = len(batch["filename"])
            rows = chosen[(chosen >= start) & (chosen < start + size)] - start
            images.append(np.asarray(batch["image"])[rows])
            labels.append(self._known(batch)[rows])
            start += size
        return np.concatenate(images), np.concatenate(labels)

    def _known(self, batch: dict) -> np.ndarray:
        from faceattr_tf.features.linear import signs

        found = []
        for task in self.tasks:
            labels = np.asarray(batch["labels"][task.name])
            found += [signs(task, labels, index) for index in range(len(task.labels))]
        return np.stack(found, axis=1)
