"""Records that were built: what they hold, where their files lie."""

import dataclasses
import json
import os
import pathlib

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.files import local
from data_pipelines.records.files import check_files
from data_pipelines.records.people import check_share, choose_images, choose_people
from data_pipelines.tasks import Task

METADATA = "metadata.json"


FILENAMES = "filenames.json"


IDENTITIES = "identities.json"


FRAMES = "frames.json"


@dataclasses.dataclass(frozen=True)
class RecordSet:
    """A folder of records, known without opening it with TensorFlow.

    Attributes:
        path: the folder.
        name: the name of the reader that built it.
        tasks: what is labelled.
        splits: examples per split as stored.
        shards: absolute TFRecord file names per split, in stored order.
        label_counts: split -> task -> `[[no, yes], ...]` per label of a multilabel task (unknown
            ones left out), `[count, ...]` per class of a multiclass task, or of a
            distribution, where the most voted class counts.
        left_out: what was counted and not stored; `bad images` holds name -> fault.
        description: title, homepage, licence, citation, obtain, options, fingerprint, how many
            images were turned upright or stored in another format, which files beside the images
            were passed over, what is `noted` of what was stored, how many labels were `corrected`,
            and whose numbers the people have, see `numbering`.
        statistics: split -> regression task -> `[mean, standard deviation]` per value, over the
            examples that know it.
        people: known people per split; empty where nobody is known, None in older records.
        shared_people: `"SPLIT and SPLIT"` -> people who are in both.
        files: name of a shard -> what `record_files.describe_file` says of it; of older records
            none.
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
        of_training: bool = False,
    ) -> tuple[str, np.ndarray | None]:
        """Where the examples of a split are stored.

        A set without a stored validation split lends one: a seeded share of its training examples,
        which then are no longer in "train". A set that has its own ignores the share unless told
        otherwise.

        Args:
            split: name of a stored split, or "validation".
            validation_share: share of the training examples, in [0, 1); a whole number from 1 on is
                that of images of every person who has more.
            seed: the seed of the choice.
            by_person: choose people with all of their images, where the set knows them, so that
                nobody is in training and validation.
            of_training: lend a share although there is a stored validation split, which is then
                not used.

        Returns:
            The stored split and a boolean mask over its examples in stored order, None for all.

        Raises:
            UserError: there is no such split, or the share is out of range.
        """
        check_share(validation_share, by_person)
        if self.lends(validation_share, of_training) and split in ("train", "validation"):
            if validation_share >= 1:
                chosen = choose_images(self.identities("train"), int(validation_share), seed)
                return "train", chosen == (split == "validation")
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

    def lends(self, validation_share: float, of_training: bool = False) -> bool:
        """Whether a share of the training examples becomes the validation split, see `select`."""
        own = "validation" in self.splits and not of_training
        return validation_share > 0 and "train" in self.splits and not own

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
        """Name of every example of a stored split, in stored order.

        Raises:
            UserError: the file that says so is missing or damaged.
        """
        return self._beside(FILENAMES, split)

    def frames(self, split: str) -> list[list[tuple[int, int]]] | None:
        """Bytes and checksum of every example of a stored split, file by file; None in older records.

        With them an example is found without reading what lies before it, see
        `data_pipelines.formats.tfrecord.frame`.

        Raises:
            UserError: the file that says so is damaged.
        """
        return self._beside(FRAMES, split) if pathlib.Path(self.path, FRAMES).exists() else None

    def identities(self, split: str) -> np.ndarray:
        """Number of the person of every example of a stored split, -1 where unknown.

        Raises:
            UserError: the file that says so is missing.
        """
        return np.array(self._beside(IDENTITIES, split))

    def _beside(self, file: str, split: str) -> list:
        """What a file beside the records holds of a stored split."""
        stored, _ = self.select(split)
        try:
            return json.loads(pathlib.Path(self.path, file).read_text())[stored]
        except (OSError, ValueError, KeyError):
            raise UserError(
                f"{self.path}: {file} is missing or not theirs; build the records again"
            ) from None

    @property
    def numbering(self) -> str:
        """Whose numbers the people have: record sets of one numbering number people alike.

        Those of CelebA are the official ones, those of other records their own unless the builder
        was told.
        """
        usual = "celeba" if self.name == "celeba" else ""  # of records from before it was stored
        own = self.description.get("fingerprint", "")[:12] or self.path
        return self.description.get("numbering", usual) or own

    def images_of_people(self, split: str, *part) -> dict[str, int]:
        """How many images of every known person a part has, in the order of their numbers.

        Args:
            split: as for `select`.
            *part: further arguments of `select`.

        Returns:
            `NUMBERING/NUMBER`, by which a person is known among those of all records -> images.
        """
        stored, mask = self.select(split, *part)
        if self.people == {}:
            return {}
        found = self.identities(stored)
        found = found if mask is None else found[mask]
        numbers, counts = np.unique(found[found >= 0], return_counts=True)
        pairs = zip(numbers.tolist(), counts.tolist(), strict=True)
        return {f"{self.numbering}/{number}": count for number, count in pairs}

    def knows(self, task: Task) -> bool:
        """Whether people of `tasks.identity_task` may be among those of these records."""
        begin = f"{self.numbering}/"
        return self.people != {} and any(label.startswith(begin) for label in task.labels)

    def summary(self) -> str:
        """Counts per split and the share of each label, as text."""
        splits = list(self.splits)
        lines = [f"{self.name}: {self.description['title']}"]
        width = max([24, *(len(label) + 4 for task in self.tasks for label in task.labels)])

        def row(name, cells):
            lines.append(f"{name:{width}}" + "".join(f"{cell:>16}" for cell in cells))

        row("", splits)
        row("examples", (f"{self.splits[split]:,}" for split in splits))
        if self.people:
            row("people", (f"{self.people[split]:,}" for split in splits))
        lines += [
            f"the same people: {count:,} in {pair}" for pair, count in self.shared_people.items()
        ]
        if any(box["count"] for box in self.boxes.values()):
            boxes = [self.boxes[split] for split in splits]
            sizes = (f"{box['mean_width']:.1f} x {box['mean_height']:.1f}" for box in boxes)
            row("mean box in pixels", sizes)
            row("boxes cut by the border", (_share_of(box["cut"], box["count"]) for box in boxes))
        for task in self.tasks:
            if task.name not in self.label_counts[splits[0]]:
                continue
            lines.append(f"{task.name} ({task.kind})")
            for index, label in enumerate(task.labels):
                counts = (self.label_counts[split][task.name] for split in splits)
                row(f"  {label}", (_share(task, count, index) for count in counts))
        for what, value in self.left_out.items():
            if count := value if isinstance(value, int) else len(value):
                lines.append(f"left out: {count:,} {what}")
        for what, count in self.description.get("noted", {}).items():
            lines.append(f"noted: {count:,} {what}")
        for attribute, count in self.description.get("corrected", {}).items():
            lines.append(f"corrected: {count:,} labels of {attribute}")
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
