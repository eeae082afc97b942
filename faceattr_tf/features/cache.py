"""What frozen networks gave for the images of record sets: arrays on disk under a key.

The key holds everything that decides the features; a change of it leads to another folder, so that
nothing stale is ever read. It lies in `key.json` beside the arrays, for people to read. What only
chooses among the features, as tasks and the validation share, is no part of it: kept is the whole
stored split, with all labels of the records.

A folder has one file of features, of which only the rows that are asked for are ever read, and for
every block of images one with their labels, which appears when the block is whole.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.metadata
import json
import os
import pathlib
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.files import file_digest, local
from data_pipelines.input.batches import Source
from faceattr_tf.configs.base import Recipe
from faceattr_tf.experiment import Experiment
from faceattr_tf.models import MODELS, options_of
from faceattr_tf.models.create import model_options, shown_pixels
from faceattr_tf.models.keras_applications import BACKBONES
from faceattr_tf.models.stages import MAP

BLOCK = 512
"""Images that are kept together: what an interruption loses at most."""

LABELS = "labels/"
"""Of the arrays of a block, those of labels are named so, and then by their task.

The others are `transform`, `identity`, `filename` and `checksum`, that of the features.
"""

FORMAT = 2
"""To be raised when what is stored, or the way from an image to it, changes its meaning."""


@dataclasses.dataclass(frozen=True)
class Cache:
    """The features of one stored split, layer and copy.

    Attributes:
        folder: where they lie, named by a digest of the key.
        key: everything that decides the features.
        count: images in the split.
        dtype: of the features on disk.
    """

    folder: pathlib.Path
    key: dict
    count: int
    dtype: np.dtype

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        source: Source,
        layer: str,
        copy: int,
        weights: str,
        mirrored: bool = False,
    ) -> "Cache":
        """Where features belong, whether or not they are there.

        Args:
            experiment: gives network, crop and options.
            source: a whole stored split.
            layer: whose pooled output the features are, or, with `MAP` behind it, output.
            copy: 0 for the images themselves, else the number of a randomly changed copy.
            weights: what `weights_digest` gave.
            mirrored: whether they are those of the mirrored crops.
        """
        key = feature_key(experiment, source, layer, copy, weights)
        key |= {"mirrored": True} if mirrored else {}
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        parent = experiment.recipe.data.bottlenecks.folder
        parent = local(parent or pathlib.Path(source.records.path) / "bottlenecks")
        folder = parent / f"{key['network']}-{layer}-{digest[:20]}"
        return cls(folder, key, source.count, np.dtype(key.get("type", "float32")))

    @property
    def blocks(self) -> int:
        """Number of blocks of the whole split."""
        return -(-self.count // BLOCK)

    @property
    def features(self) -> pathlib.Path:
        """The file of all features, `[count, F]`, for NumPy."""
        return self.folder / "features.npy"

    def read(self, index: int) -> dict[str, np.ndarray] | None:
        """The arrays of a block beside its features; None where one of both is missing or damaged.

        Features that are not those that were written count as damaged, hence all are read once.
        """
        file = self._file(index)
        try:
            with np.load(file, allow_pickle=False) as stored:
                arrays = dict(stored)  # Reading checks the sums of the archive.
            features = np.load(self.features, mmap_mode="r", allow_pickle=False)
            same = zlib.crc32(features[self._rows(index)]) == arrays.pop("checksum")
            if same and len(features) == self.count and features.dtype == self.dtype:
                return arrays
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            pass
        print(f"{file} is damaged; it is computed again")
        return None

    def write(self, index: int, features: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
        """Keeps a block: its features in their place, then the others under the block's name."""
        rows = self._rows(index)
        features = np.ascontiguousarray(features, self.dtype)
        shape = (self.count, *features.shape[1:])
        try:
            try:
                place = np.load(self.features, mmap_mode="r", allow_pickle=False)
                fits = place.shape == shape and place.dtype == self.dtype
            except (OSError, ValueError, EOFError):
                fits = False
            if not fits:
                place = np.lib.format.open_memmap(self.features, "w+", self.dtype, shape)
            # By a file, since a full disk ends a process that writes to a map.
            with open(self.features, "r+b") as file:
                file.seek(place.offset + rows.start * features[0].nbytes)
                file.write(features)
        except OSError as error:
            raise self._unwritable(error) from None
        arrays = arrays | {"checksum": np.uint32(zlib.crc32(features))}
        self._replace(self._file(index), lambda file: np.savez(file, **arrays))

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keeps other processes from writing to the folder, which is made first where it is missing.

        Raises:
            UserError: the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.folder, os.O_RDONLY)
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{self.folder}: waiting for another process that computes it")
                fcntl.flock(handle, fcntl.LOCK_EX)
            text = json.dumps(self.key, indent=1) + "\n"
            self._replace(self.folder / "key.json", lambda file: file.write(text.encode()))
            yield
        finally:
            os.close(handle)

    def _rows(self, index: int) -> slice:
        return slice(index * BLOCK, min(self.count, (index + 1) * BLOCK))

    def _file(self, index: int) -> pathlib.Path:
        return self.folder / f"{index:05}-of-{self.blocks:05}.npz"

    def _replace(self, file: pathlib.Path, write) -> None:
        # What an interrupted run left behind under this name is written over.
        partial = file.with_name(f".{file.name}.partial")
        try:
            with open(partial, "wb") as opened:
                write(opened)
            os.replace(partial, file)
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(
            f"{self.folder.parent}: bottlenecks cannot be written there ({error.strerror}); "
            "name another folder by --config.data.bottlenecks.folder=DIR"
        )


def feature_key(
    experiment: Experiment, source: Source, layer: str, copy: int, weights: str
) -> dict:
    """Everything that decides the features of a stored split; for the arguments see `Cache.of`.

    Raises:
        UserError: the records are too old to know what they were built from.
    """
    recipe, description = experiment.recipe, source.records.description
    if not description.get("fingerprint"):
        raise UserError(f"{source.records.path}: no fingerprint in these records; build them again")
    # The network's own options, those of its heads leave the features alone.
    options = options_of(MODELS[recipe.model.name])
    given = model_options(recipe.model)
    options |= {name: value for name, value in given.items() if name in options}
    if recipe.model.name in BACKBONES:
        options["pixel_values"] = shown_pixels(recipe.model)
    key = {
        "format": FORMAT,
        "network": recipe.model.name,
        "options": options,
        "weights": weights,
        "layer": layer,
        "precision": recipe.precision,
        "crop": experiment.crop.to_dict(),
        "displacement": experiment.view.to_dict()["displacement"],
        "records": description["fingerprint"],
        "split": source.split,
        "images": source.count,
        "images in a block": BLOCK,
        "copy": copy,
    }
    if layer.endswith(MAP):
        key["type"] = recipe.data.bottlenecks.map_type
    if copy:
        key |= {"augment": dataclasses.asdict(recipe.data.augment), "seed": recipe.seed}
    return key


def weights_digest(recipe: Recipe) -> str:
    """What the weights of a recipe's network are, in one line that changes when they do.

    Raises:
        UserError: their file cannot be read.
    """
    if recipe.model.trunks:
        parts = (_digest(recipe, file) for _, file in recipe.model.trunks)
        names = (name for name, _ in recipe.model.trunks)
        return ", ".join(f"{name}: {part}" for name, part in zip(names, parts, strict=True))
    return _digest(recipe, recipe.model.weights)


def _digest(recipe: Recipe, weights: str) -> str:
    if not weights or weights == "imagenet":
        keras = f"Keras {importlib.metadata.version('keras')}"
        return f"imagenet, {keras}" if weights else f"random, seed {recipe.seed}, {keras}"
    try:
        return file_digest(weights)
    except OSError as error:
        raise UserError(f"{weights}: these weights cannot be read ({error.strerror})") from None


def check_space(needed: Mapping[pathlib.Path, int], *, aloud: bool) -> None:
    """Makes sure that disks have room for features before any of them are written.

    Args:
        needed: folder -> bytes.
        aloud: say how much it is.

    Raises:
        UserError: one has not.
    """
    for folder, size in needed.items():
        free = shutil.disk_usage(folder).free
        if aloud:
            print(
                f"{folder}: {size / 2**20:,.0f} MiB of features, {free / 2**20:,.0f} MiB are free"
            )
        if size > free:
            raise UserError(
                f"{folder}: features take {size / 2**20:,.0f} MiB and {free / 2**20:,.0f} MiB are "
                "free; name another folder by --config.data.bottlenecks.folder=DIR"
            )
