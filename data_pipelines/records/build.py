"""Record sets: folders of TFRecords that a reader built, and what is known about them.

A record is a flat `tf.train.Example`: `image` (encoded bytes), `filename`, `box` `[4]` (left, top,
width, height), `landmarks` `[5, 2]`, `identity`, and `tasks/NAME` per task. Coordinates are pixels
whose centre is the integer, unknown ones are NaN. The folder is also an ordinary TensorFlow
Datasets folder: `tfds.builder_from_directory(path)` reads it.
"""

import contextlib
import dataclasses
import fcntl
import io
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.files import local
from data_pipelines.formats.encoded import MAX_PIXELS
from data_pipelines.readers import READERS, reader_class
from data_pipelines.readers.base import TURNED
from data_pipelines.records.counting import count_labels, measure_boxes
from data_pipelines.records.files import check_files, describe_file
from data_pipelines.records.people import choose_people, count_people, read_identities
from data_pipelines.tasks import Task

METADATA = "metadata.json"
FILENAMES = "filenames.json"
IDENTITIES = "identities.json"


@dataclasses.dataclass(frozen=True)
class RecordSet:
    """A folder of records, known without opening it with TensorFlow.

    Attributes:
        path: the folder.
        name: of the reader that built it.
        tasks: what is labelled.
        splits: examples per split as stored.
        shards: absolute TFRecord file names per split, in stored order.
        label_counts: split -> task -> `[[no, yes], ...]` per label of a multilabel task (unknown
            ones left out), `[count, ...]` per class of a multiclass task.
        left_out: what was counted and not stored; `bad images` holds name -> fault.
        description: title, homepage, licence, citation, obtain, options, fingerprint, how many
            images were turned upright or stored in another format, and which files beside the
            images were passed over.
        statistics: split -> regression task -> `[mean, standard deviation]` per value, over the
            examples that know it.
        people: known people per split; empty where nobody is known, None in older records.
        shared_people: `"SPLIT and SPLIT"` -> people who are in both.
        files: name of a shard -> what `record_files.describe_file` says of it; of older records none.
        boxes: split -> `count` of images with a box (or else landmarks, whose bounding square
            counts), `mean_width`, `mean_height` and `mean_longer` side in pixels of these, and how
            many are `cut`: reach outside their image; and `landmarks`, the images with all five.
    """

    path: str
    name: str
    tasks: tuple[Task, ...]
    splits: dict[str, int]
    shards: dict[str, tuple[str, ...]]
    label_counts: dict[str, dict[str, list]]
    left_out: dict
    description: dict
    statistics: dict[str, dict[str, list]] = dataclasses.field(default_factory=dict)
    boxes: dict[str, dict] = dataclasses.field(default_factory=dict)
    files: dict[str, dict] = dataclasses.field(default_factory=dict)
    people: dict[str, int] | None = None
    shared_people: dict[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "RecordSet":
        """The record set in a folder.

        Raises:
            UserError: the folder is missing, holds no records, lacks one of its files, or one is
                not whole or of another build.
        """
        folder = local(path).absolute()
        if not folder.is_dir():
            raise UserError(f"{path}: no such folder of records; `faceattr-data build` makes one")
        try:
            fields = json.loads((folder / METADATA).read_text())
            fields["tasks"] = tuple(map(Task.from_dict, fields["tasks"]))
            fields["shards"] = {
                split: tuple(str(folder / name) for name in names)
                for split, names in fields["shards"].items()
            }
            records = cls(path=str(folder), **fields)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"{path}: no complete records ({METADATA} is missing or not theirs); "
                "`faceattr-data build` makes them"
            ) from None
        names = {
            split: [os.path.basename(name) for name in shards]
            for split, shards in records.shards.items()
        }
        check_files(folder, names, records.splits, records.files)
        return records

    def task(self, name: str) -> Task:
        """The task of that name.

        Raises:
            UserError: there is none; the message lists those that exist.
        """
        for task in self.tasks:
            if task.name == name:
                return task
        known = ", ".join(task.name for task in self.tasks)
        raise UserError(f"{self.path}: no task {name!r} in these records; there are: {known}")

    def select(
        self,
        split: str,
        validation_share: float = 0.0,
        seed: int = 0,
        by_person: bool = False,
    ) -> tuple[str, np.ndarray | None]:
        """Where the examples of a split are stored.

        A set without a stored validation split lends one: a seeded share of its training examples,
        which then are no longer in "train". A set that has its own ignores the share.

        Args:
            split: name of a stored split, or "validation".
            validation_share: share of the training examples, in [0, 1).
            seed: of the choice.
            by_person: choose people with all of their images, where the set knows them, so that
                nobody is in training and validation.

        Returns:
            The stored split and a boolean mask over its examples in stored order, None for all.

        Raises:
            UserError: there is no such split, or the share is out of range.
        """
        if not 0 <= validation_share < 1:
            raise UserError(f"validation_share={validation_share} is not in [0, 1)")
        if self.lends(validation_share) and split in ("train", "validation"):
            if by_person and self.people:
                chosen = choose_people(self.identities("train"), validation_share, seed)
                return "train", chosen == (split == "validation")
            count = self.splits["train"]
            chosen = np.random.default_rng(seed).permutation(count)
            mask = np.full(count, split == "train")
            mask[chosen[: round(validation_share * count)]] = split == "validation"
            return "train", mask
        if split not in self.splits:
            known = ", ".join(self.splits)
            hint = "; a validation share above 0 makes one" if split == "validation" else ""
            raise UserError(f"{self.path}: no split {split!r}; there are: {known}{hint}")
        return split, None

    def lends(self, validation_share: float) -> bool:
        """Whether a share of the training examples becomes the validation split."""
        return validation_share > 0 and "train" in self.splits and "validation" not in self.splits

    def count(self, split: str, *part, **named) -> int:
        """Number of examples that `select` chooses, whose further arguments it takes."""
        stored, mask = self.select(split, *part, **named)
        return self.splits[stored] if mask is None else int(mask.sum())

    def majority(self, split: str = "train") -> dict[str, np.ndarray]:
        """What always guessing the commonest answer would say, from a stored split.

        Returns:
            Per multilabel task a bool per label (no where both are as common), per multiclass task
            the index of the commonest class, `[1]`.
        """
        stored, _ = self.select(split)
        guesses = {}
        for name, counts in self.label_counts[stored].items():
            counts = np.array(counts)
            if self.task(name).kind == "multilabel":
                guesses[name] = counts[:, 1] > counts[:, 0]
            else:
                guesses[name] = np.array([counts.argmax()])
        return guesses

    def mean_box(self, split: str = "train") -> float:
        """Mean longer side of the boxes of a stored split, in pixels (FaceSTN, section III.B).

        Raises:
            UserError: there is no such split, no box in it, or the records are too old to know.
        """
        stored, _ = self.select(split)
        if stored not in self.boxes:
            raise UserError(f"{self.path}: no mean box in these records; build them again")
        if not self.boxes[stored]["count"]:
            raise UserError(
                f"{self.path}: no mean box, as no image of {stored!r} has a box or landmarks"
            )
        return self.boxes[stored]["mean_longer"]

    def filenames(self, split: str) -> list[str]:
        """Name of every example of a stored split, in stored order."""
        stored, _ = self.select(split)
        return json.loads((pathlib.Path(self.path) / FILENAMES).read_text())[stored]

    def identities(self, split: str) -> np.ndarray:
        """Number of the person of every example of a stored split, -1 where unknown.

        Raises:
            UserError: the file that says so is missing.
        """
        stored, _ = self.select(split)
        try:
            found = json.loads((pathlib.Path(self.path) / IDENTITIES).read_text())[stored]
        except (OSError, ValueError, KeyError):
            raise UserError(
                f"{self.path}: {IDENTITIES} is missing or not theirs; build the records again"
            ) from None
        return np.array(found)

    def summary(self) -> str:
        """Counts per split and the share of each label, as text."""
        splits = list(self.splits)
        lines = [f"{self.name}: {self.description['title']}"]
        lines += [f"{'':24}" + "".join(f"{split:>16}" for split in splits)]
        lines += [f"{'examples':24}" + "".join(f"{self.splits[split]:>16,}" for split in splits)]
        if self.people:
            lines.append(f"{'people':24}" + "".join(f"{self.people[s]:>16,}" for s in splits))
        lines += [
            f"the same people: {count:,} in {pair}" for pair, count in self.shared_people.items()
        ]
        if any(box["count"] for box in self.boxes.values()):
            boxes = [self.boxes[split] for split in splits]
            sizes = [f"{box['mean_width']:.1f} x {box['mean_height']:.1f}" for box in boxes]
            lines.append(f"{'mean box in pixels':24}" + "".join(f"{size:>16}" for size in sizes))
            cut = [_share_of(box["cut"], box["count"]) for box in boxes]
            lines.append(f"{'boxes cut by the border':24}" + "".join(f"{cell:>16}" for cell in cut))
        for task in self.tasks:
            if task.name not in self.label_counts[splits[0]]:
                continue
            lines.append(f"{task.name} ({task.kind})")
            for index, label in enumerate(task.labels):
                cells = (
                    _share(task, self.label_counts[split][task.name], index) for split in splits
                )
                lines.append(f"  {label:22}" + "".join(f"{cell:>16}" for cell in cells))
        for what, value in self.left_out.items():
            if count := value if isinstance(value, int) else len(value):
                lines.append(f"left out: {count:,} {what}")
        if turned := self.description["turned_upright"]:
            lines.append(f"turned upright by their orientation tag: {turned:,} images")
        for what, count in self.description.get("reencoded", {}).items():
            lines.append(f"{what}: {count:,} images")
        for what, count in self.description.get("passed_over", {}).items():
            lines.append(f"not read: {count:,} {what}")
        return "\n".join(lines)


def _share(task: Task, counts: list, index: int) -> str:
    yes = counts[index][1] if task.kind == "multilabel" else counts[index]
    known = sum(counts[index]) if task.kind == "multilabel" else sum(counts)
    return _share_of(yes, known)


def _share_of(part: int, whole: int) -> str:
    return f"{part:,} ({part / whole:.1%})" if whole else "unknown"


def build(
    reader_name: str,
    source: str | os.PathLike,
    records: str | os.PathLike,
    *,
    detections: str | os.PathLike | None = None,
    max_bad: int = 0,
    max_pixels: int = MAX_PIXELS,
    overwrite: bool = False,
    progress: bool = True,
    **options,
) -> RecordSet:
    """Turns a data set's folder into a folder of records.

    Nothing appears under the final name before everything is written: an interrupted build leaves
    only a hidden folder beside it, which the next one clears. The same source, options and
    detections give the same bytes; where such records exist already they are reused.

    Args:
        reader_name: one of `READERS`.
        source: the folder (or file) of the data set.
        records: the folder to make.
        detections: table written by `faceattr-data detect`, joined in by filename.
        max_bad: how many images may be missing or undecodable; they are left out by name.
        max_pixels: an image that is larger by its header counts as undecodable.
        overwrite: replaces records that were built from something else.
        progress: show a bar, on a terminal.
        **options: of the reader.

    Raises:
        UserError: the source lacks something, holds something wrong, more images than `max_bad`
            are bad, or the target holds something else.
    """
    if reader_name not in READERS:
        raise UserError(f"no reader {reader_name!r}; there are: {', '.join(READERS)}")
    target, source = local(records).absolute(), local(source)
    detections = local(detections) if detections else None
    partial = target.with_name(f".{target.name}.partial")
    builder = reader_class(reader_name)(
        source=source,
        data_dir=partial / "data",
        detections=detections,
        max_bad=max_bad,
        max_pixels=max_pixels,
        progress=progress,
        **options,
    )
    fingerprint = builder.fingerprint()
    if target.exists() and not _replaceable(target, fingerprint, overwrite):
        print(f"{records}: already built from this source, reused", file=sys.stderr)
        return RecordSet.load(target)
    with _exclusive(partial):
        _prepare(builder)
        builder.check_bad()
        builder.check_joined()
        folder = pathlib.Path(builder.data_path)
        _write_metadata(builder, folder, fingerprint)
        if target.exists():
            os.replace(target, partial / "replaced")
        os.replace(folder, target)
    return RecordSet.load(target)


def _replaceable(target: pathlib.Path, fingerprint: str, overwrite: bool) -> bool:
    """Whether to build into a target that exists; False where it already holds the same."""
    if target.is_dir() and not any(target.iterdir()):
        return True
    try:
        existing = RecordSet.load(target)
    except UserError as error:
        # What is no record set may be somebody's only copy of something else.
        if target.is_dir() and (target / METADATA).exists():
            if overwrite:
                return True
            raise UserError(f"{error}, with --overwrite") from None
        raise UserError(
            f"{target}: there is something else than complete records; give another folder"
        ) from None
    if existing.description["fingerprint"] == fingerprint:
        # Without sizes of boxes they are of an earlier version, and say less.
        return not existing.boxes
    if not overwrite:
        raise UserError(
            f"{target}: holds records of {existing.name} built from another source or with other "
            "options; give another folder, or --overwrite to replace them"
        )
    return True


@contextlib.contextmanager
def _exclusive(folder: pathlib.Path) -> Iterator[None]:
    """An empty folder that no other build uses at the same time, removed at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another build is writing to it") from None
        for entry in folder.iterdir():
            shutil.rmtree(entry)
        try:
            yield
        finally:
            shutil.rmtree(folder)
    finally:
        os.close(handle)


def _prepare(builder) -> None:
    """Runs the builder under its own progress bars, without the network."""
    import tensorflow  # noqa: F401  (what it says when it is loaded must not cut a progress bar)
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):  # it announces a download that there is not
        builder.download_and_prepare(
            download_dir=pathlib.Path(builder.data_path).parents[2] / "downloads",
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
        )


def _title(builder, count: int) -> str:
    """What the records hold, which may be less than the data set of that name, or drawn."""
    from data_pipelines.synth.layouts import DRAWN

    folder = builder.source if builder.source.is_dir() else builder.source.parent
    drawn = "drawn " if (folder / DRAWN).is_file() else ""
    return f"{builder.ABOUT.title} ({count:,} {drawn}faces)"


def _write_metadata(builder, folder: pathlib.Path, fingerprint: str) -> None:
    """Writes what `RecordSet` knows, counted from the records themselves."""
    splits = builder.info.splits
    shards = {
        name: [os.path.basename(f) for f in split.filepaths] for name, split in splits.items()
    }
    files = {
        name: describe_file(folder / name, length)
        for split in shards
        for name, length in zip(shards[split], splits[split].shard_lengths, strict=True)
    }
    filenames, counts, statistics, boxes, identities = {}, {}, {}, {}, {}
    for split, names in shards.items():
        paths = [str(folder / name) for name in names]
        filenames[split], counts[split], statistics[split] = count_labels(paths, builder.tasks)
        boxes[split] = measure_boxes(paths)
        identities[split] = read_identities(paths)
    people, shared_people = count_people(identities)
    if people:
        numbers = {split: found.tolist() for split, found in identities.items()}
        (folder / IDENTITIES).write_text(json.dumps(numbers))
    left_out = dict(builder.left_out)
    changed = {what: count for what, count in sorted(builder.changed.items()) if what}
    if builder.bad:
        left_out["bad images"] = dict(sorted(builder.bad.items()))
    splits = {split: len(names) for split, names in filenames.items()}
    fields = {
        "name": builder.name,
        "tasks": [task.to_dict() for task in builder.tasks],
        "splits": splits,
        "shards": shards,
        "files": files,
        "label_counts": counts,
        "statistics": statistics,
        "boxes": boxes,
        "people": people,
        "shared_people": shared_people,
        "left_out": left_out,
        "description": dataclasses.asdict(builder.ABOUT)
        | {"title": _title(builder, sum(splits.values()))}
        | {"options": builder.options, "detections": builder.joined}
        | {"turned_upright": changed.pop(TURNED, 0), "reencoded": changed}
        | {"passed_over": dict(builder.images.left_out), "fingerprint": fingerprint},
    }
    (folder / FILENAMES).write_text(json.dumps(filenames))
    (folder / METADATA).write_text(json.dumps(fields, indent=1))
