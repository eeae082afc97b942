"""Files of records, shards: which faces belong into which, and how one of them is written.

Row numbers are shuffled, never images: a shard is a contiguous range of the rows in the order of
their hashed keys, which is the order of TensorFlow Datasets. How many shards a split has follows
its rule too, from the sizes of the images as they lie in the source. So all is decided before an
image is read, whoever writes a shard writes the same bytes, and an image that is left out shifts no
border.
"""

import collections
import dataclasses
import itertools
import json
import multiprocessing.pool
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from tensorflow_datasets.core import hashing
from tensorflow_datasets.core.utils import shard_utils

from data_pipelines.errors import UserError
from data_pipelines.files import replacing, write_text
from data_pipelines.formats.tfrecord import frame, serialise_example
from data_pipelines.progress import progress_bar
from data_pipelines.readers.base import (
    MISSING,
    AnnotatedFace,
    FaceBuilder,
    FacesOfRows,
    LoadedImage,
)
from data_pipelines.records.counting import count_shard
from data_pipelines.records.files import describe_file

_READ_AHEAD = 256
_SAMPLE = 100  # so many faces show how large a record is beside its image


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of records and what belongs into it.

    Attributes:
        split: whose file it is.
        index: its place among the files of the split, from 0.
        count: how many files the split has.
        faces: with or without an image, in stored order.
        missing: names of images that the source lacks.
    """

    split: str
    index: int
    count: int
    faces: Sequence[AnnotatedFace]
    missing: frozenset[str]

    def file(self, dataset: str) -> str:
        """Its name, as TensorFlow Datasets names it."""
        return f"{dataset}-{self.split}.tfrecord-{self.index:05d}-of-{self.count:05d}"


def plan_shards(builder: FaceBuilder) -> list[Shard]:
    """All files of a record set, split by split, from the tables and the list of images.

    Raises:
        UserError: a table is wrong, or a split has a face twice.
    """
    shards = []
    for split, faces in builder.faces().items():
        names, digests = [], []
        hasher = hashing.Hasher(split)
        for face in faces:
            names.append(face.filename)
            digests.append(hasher.hash_key(builder.key(face)).to_bytes(16))
        high, low = np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2).T
        order = np.lexsort((low, high))
        same = (np.diff(high[order]) == 0) & (np.diff(low[order]) == 0)
        if same.any():
            name = names[order[same.argmax()]]
            raise UserError(f"{builder.source}: image {name} occurs twice in split {split!r}")
        ends = _ends(builder, faces, sum(builder.images.sizes.get(name, 0) for name in names))
        for index, (begin, end) in enumerate(itertools.pairwise((0, *ends))):
            rows = order[begin:end]
            missing = {names[row] for row in rows if names[row] not in builder.images.sizes}
            ordered = FacesOfRows(rows, faces.__getitem__)
            shards.append(Shard(split, index, len(ends), ordered, frozenset(missing)))
    return shards


def _ends(builder, faces: Sequence[AnnotatedFace], image_bytes: int) -> Sequence[int]:
    """Where each shard of a split ends, in rows."""
    sample = [faces[row] for row in range(0, len(faces), -(-len(faces) // _SAMPLE))]
    beside = np.mean([len(_serialise(builder.record(face, b""))) for face in sample])
    config = shard_utils.ShardConfig()
    number = config.get_number_shards(image_bytes + round(beside * len(faces)), len(faces))
    return shard_utils.get_shard_boundaries(len(faces), number)


def _serialise(record: Mapping) -> bytes:
    fields = {name: value for name, value in record.items() if name != "tasks"}
    labels = {f"tasks/{name}": label for name, label in record.get("tasks", {}).items()}
    return serialise_example(fields | labels)


def write_shards(
    builder: FaceBuilder, shards: Sequence[Shard], folder: pathlib.Path, stamp: str
) -> None:
    """Writes shards one after another, under progress bars; see `write_shard`."""
    import tensorflow  # noqa: F401  (what it says when it is loaded must not cut a progress bar)

    (folder / "data").mkdir(exist_ok=True)
    for split, group in itertools.groupby(shards, lambda shard: shard.split):
        own = list(group)
        images = sum(len(shard.faces) for shard in own)
        description = f"{builder.name} {split}"
        with progress_bar(images, "image", show=builder.progress, desc=description) as bar:
            for shard in own:
                write_shard(builder, shard, folder, stamp, bar.update)


def write_shard(
    builder: FaceBuilder,
    shard: Shard,
    folder: pathlib.Path,
    stamp: str,
    advance: Callable[[int], object] = lambda images: None,
) -> None:
    """Writes one file of records into `data` and what is known of it, its summary, beside that.

    Either appears under its name when it is whole, the summary last; where both are there nothing
    is done. Whoever writes it again, even at the same time, puts the same bytes in the same place.

    Args:
        builder: reads the images.
        shard: what is written.
        folder: where the parts of a build lie, with its `data`.
        stamp: what all parts of a build have in common, see `read_summary`.
        advance: told of every few images how many were read.

    Raises:
        UserError: no image can be used, or too many cannot.
    """
    import tensorflow as tf

    file = folder / "data" / shard.file(builder.name)
    if read_summary(file, stamp):
        return
    kept, sizes, frames, bad, changed = [], [], [], {}, collections.Counter()
    with replacing(file) as temporary:
        with tf.io.TFRecordWriter(os.fspath(temporary)) as writer:
            for face, image in _loaded(builder, shard, advance):
                if image.fault:
                    bad[face.filename] = image.fault
                    builder.note_bad(face.filename, image.fault)
                    continue
                record = builder.record(face, image.data)
                data = _serialise(record)
                writer.write(data)
                frames.append(frame(data))
                kept.append(record | {"image": b""})
                sizes.append(image.size)
                changed.update([image.change] if image.change else [])
        if not kept:
            builder.check_bad()
            what = f"split {shard.split!r}" if shard.count == 1 else shard.file(builder.name)
            raise UserError(f"{builder.source}: {what} has no image that can be used")
    counts = count_shard(kept, sizes, builder.tasks)
    summary = {
        "stamp": stamp,
        "file": describe_file(file, len(kept)),
        "frames": frames,
        "bad": bad,
        "changed": changed,
    }
    write_text(_summary_of(file), json.dumps(summary | counts))


def _loaded(builder, shard, advance) -> Iterator[tuple[AnnotatedFace, LoadedImage]]:
    """The faces with their images, in order."""

    def load(face):
        return MISSING if face.filename in shard.missing else builder.load(face.filename)

    with multiprocessing.pool.ThreadPool(min(8, os.cpu_count() or 1)) as pool:
        for begin in range(0, len(shard.faces), _READ_AHEAD):
            end = min(begin + _READ_AHEAD, len(shard.faces))
            faces = [shard.faces[place] for place in range(begin, end)]
            yield from zip(faces, pool.map(load, faces), strict=True)
            advance(len(faces))


def _summary_of(file: pathlib.Path) -> pathlib.Path:
    return file.parents[1] / f"{file.name}.json"


def read_summary(file: pathlib.Path, stamp: str) -> dict:
    """What `write_shard` wrote of a file; empty where it is not there, not whole or foreign.

    Args:
        file: a file of records.
        stamp: of the build that it should belong to.
    """
    try:
        summary = json.loads(_summary_of(file).read_text())
        whole = describe_file(file, summary["file"]["examples"]) == summary["file"]
    except FileNotFoundError:
        return {}
    # Parts of an earlier version, which lack what is needed now, are written again.
    return summary if whole and summary["stamp"] == stamp and "frames" in summary else {}
