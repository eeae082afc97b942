"""What a label is: tasks, their kinds, and the names that data sets share.

A task is what one head of a model predicts. A data set is a tuple of tasks; two data sets share a
task when its name and kind agree, and its labels are joined by name. Nothing here needs
TensorFlow, so that models can be built on any Keras backend.
"""

import collections
import dataclasses
import itertools
import math
import re
from collections.abc import Sequence

import numpy as np

UNKNOWN = -1
"""The stored value of a label that nobody gave; masked in every loss and metric, never guessed.

Float labels (regression, landmarks) that are unknown are NaN.
"""

KINDS = ("multilabel", "multiclass", "distribution", "regression", "landmarks", "transform")
CLASS_KINDS = ("multiclass", "distribution")
"""Kinds of which a model says how likely each of several classes is, exactly one being right."""

# The order of the columns of CelebA's list_attr_celeba.txt (Liu et al., ICCV 2015).
CELEBA_ATTRIBUTES = (
    "5_o_Clock_Shadow",
    "Arched_Eyebrows",
    "Attractive",
    "Bags_Under_Eyes",
    "Bald",
    "Bangs",
    "Big_Lips",
    "Big_Nose",
    "Black_Hair",
    "Blond_Hair",
    "Blurry",
    "Brown_Hair",
    "Bushy_Eyebrows",
    "Chubby",
    "Double_Chin",
    "Eyeglasses",
    "Goatee",
    "Gray_Hair",
    "Heavy_Makeup",
    "High_Cheekbones",
    "Male",
    "Mouth_Slightly_Open",
    "Mustache",
    "Narrow_Eyes",
    "No_Beard",
    "Oval_Face",
    "Pale_Skin",
    "Pointy_Nose",
    "Receding_Hairline",
    "Rosy_Cheeks",
    "Sideburns",
    "Smiling",
    "Straight_Hair",
    "Wavy_Hair",
    "Wearing_Earrings",
    "Wearing_Hat",
    "Wearing_Lipstick",
    "Wearing_Necklace",
    "Wearing_Necktie",
    "Young",
)

# "Left" is the left side of the picture, as in CelebA's and MTFL's files.
LANDMARK_NAMES = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
POSE_CLASSES = ("left_profile", "left", "frontal", "right", "right_profile")


@dataclasses.dataclass(frozen=True)
class Task:
    """What one head of a model predicts.

    Attributes:
        name: key of the task in records, in a model's outputs and in reports.
        kind: one of `KINDS`. `multilabel`: independent yes/no attributes; `multiclass`: exactly one
            of several classes; `distribution`: the same, known as the shares of those who voted for
            each class; `regression`: real values; `landmarks`: points of the face;
            `transform`: an affine transform `[2, 3]` from the aligned crop to the network's crop.
        labels: attribute names, class names, names of values, of points or of parameters.
        mirror: for each label the index of the label that it becomes when the picture is mirrored
            left to right (pose classes and left/right points swap); empty where nothing changes.
        values: the number that each class stands for, ascending (years of a range of ages); empty
            where classes have no order.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    mirror: tuple[int, ...] = ()
    values: tuple[float, ...] = ()

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(
                f"task {self.name!r}: kind {self.kind!r} is none of {', '.join(KINDS)}"
            )
        if not self.labels:
            raise ValueError(f"task {self.name!r}: it needs at least one label")
        counts = collections.Counter(self.labels)
        repeated = sorted(label for label, count in counts.items() if count > 1)
        if repeated:
            raise ValueError(f"task {self.name!r}: label {repeated[0]!r} occurs more than once")
        if self.mirror and sorted(self.mirror) != list(range(len(self.labels))):
            raise ValueError(
                f"task {self.name!r}: mirror {self.mirror} is no permutation of its "
                f"{len(self.labels)} labels"
            )
        if self.values and (
            self.kind not in CLASS_KINDS
            or len(self.values) != len(self.labels)
            or any(low >= high for low, high in itertools.pairwise(self.values))
        ):
            raise ValueError(
                f"task {self.name!r}: values {self.values} are not one for each of its "
                f"{len(self.labels)} classes, ascending"
            )

    @property
    def output_size(self) -> int:
        """Width of the head: one logit or value per label, two coordinates per landmark."""
        return len(self.labels) * (2 if self.kind == "landmarks" else 1)

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Shape of one example's label.

        `[n]`, but `[]` for multiclass, `[n, 2]` for landmarks, `[2, 3]` for a transform.
        """
        count = len(self.labels)
        shapes = {"multiclass": (), "landmarks": (count, 2), "transform": (2, 3)}
        return shapes.get(self.kind, (count,))

    @property
    def label_dtype(self) -> str:
        """Integer for yes/no and class labels (`UNKNOWN` = -1), `float32` (NaN) for the others.

        `int8` unless there are more classes than it can count (people, for instance).
        """
        if self.kind == "multiclass" and len(self.labels) > 128:
            return "int32"
        return "int8" if self.kind in ("multilabel", "multiclass") else "float32"

    def unknown(self) -> np.ndarray:
        """The label of an example of which this task knows nothing."""
        fill = math.nan if self.label_dtype == "float32" else UNKNOWN
        return np.full(self.label_shape, fill, self.label_dtype)

    def select(self, labels: Sequence[str]) -> "Task":
        """The same task with these labels only, in this order (multilabel and regression).

        Raises:
            ValueError: a label is not one of the task's, or the kind has no independent labels.
        """
        if self.kind not in ("multilabel", "regression"):
            raise ValueError(f"task {self.name!r}: labels of a {self.kind} task cannot be selected")
        for label in labels:
            if label not in self.labels:
                raise ValueError(
                    f"task {self.name!r} has no label {label!r}; it has: {', '.join(self.labels)}"
                )
        return Task(self.name, self.kind, tuple(labels))

    def to_dict(self) -> dict:
        """A JSON-ready description, the inverse of `from_dict`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict) -> "Task":
        """The task that `to_dict` described."""
        lists = {name: tuple(fields.get(name, ())) for name in ("labels", "mirror", "values")}
        return cls(**fields | lists)


CELEBA = Task("attributes", "multilabel", CELEBA_ATTRIBUTES)
MTFL_ATTRIBUTES = Task("attributes", "multilabel", ("Male", "Smiling", "Eyeglasses"))
POSE = Task("pose", "multiclass", POSE_CLASSES, mirror=(4, 3, 2, 1, 0))
LANDMARKS = Task("landmarks", "landmarks", LANDMARK_NAMES, mirror=(1, 0, 2, 4, 3))

MALE = Task("attributes", "multilabel", ("Male",))
AGE = Task("age", "regression", ("years",))

AGE_BINS = Task(
    "age_bins",
    "multiclass",
    (
        *("0-2", "3-6", "7", "8-13", "14", "15-20", "21-24", "25-32", "33-37", "38-43", "44-47"),
        *("48-53", "54-59", "60+"),
    ),
    values=(1, 4.5, 7, 10.5, 14, 17.5, 22.5, 28.5, 35, 40.5, 45.5, 50.5, 56.5, 75),
)
"""Fourteen ranges of years, as Flickr (section 4.5) counts them without saying which.

They are the eight of Adience (Eidinger et al., 2014: 0-2, 4-6, 8-13, 15-20, 25-32, 38-43, 48-53, 60+)
with the gaps between them, the 3 being joined to 4-6. A range stands for its middle, the open one
for the mean of UTKFace's faces in it, rounded.
"""

AGE_RANGE = Task(
    "age_range",
    "multiclass",
    ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70"),
    values=(1, 6, 14.5, 24.5, 34.5, 44.5, 54.5, 64.5, 82),
)
"""FairFace's ranges of years; the last begins with 70 and stands for the same mean as above."""


def range_of(task: Task, years: int) -> int:
    """Index of the class of `AGE_BINS` or `AGE_RANGE` that a whole number of years is in."""
    starts = [int(re.findall(r"\d+", label)[0]) for label in task.labels]
    return int(np.searchsorted(starts, years, side="right")) - 1


FIVE_GROUPS = ("White", "Black", "Asian", "Indian", "Others")
"""UTKFace's groups: Others are "like Hispanic, Latino, Middle Eastern", as it says itself."""

SEVEN_GROUPS = (
    *("White", "Black", "Latino_Hispanic", "East_Asian", "Southeast_Asian", "Indian"),
    "Middle_Eastern",
)
"""FairFace's groups."""

EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""FER2013's classes, in its order."""


SENSITIVE = frozenset({"ethnicity", "ethnicities", "race", "races"})
"""Names of tasks that are answered only when asked for by name, errors first in reports.

Their labels are what others took people on pictures for, by looks and in a few coarse groups; they
are not how anybody describes themselves. To be taken for what one is not offends.
"""


def ethnicity_tasks(groups: tuple[str, ...]) -> tuple[Task, Task]:
    """Which group others took somebody for: as one of the groups, and as yes or no to each.

    The second reading is that of Flickr (section 4.7), whose answer may be several groups or none.
    """
    return Task("ethnicity", "multiclass", groups), Task("ethnicities", "multilabel", groups)


THETA_NAMES = ("theta11", "theta12", "theta13", "theta21", "theta22", "theta23")
ALIGNMENT = Task("alignment", "transform", THETA_NAMES)
"""Where the aligned crop lies in the network's crop (FaceSTN, equation 1), row by row.

It is never stored: the input pipeline computes it from the geometry of both crops. Coordinates are
normalised: -1 and +1 are a crop's borders.
"""

IDENTITY = "identity"
"""The task whose classes are people: records that store no task of this name number people."""


def identity_task(people: Sequence[str]) -> Task:
    """The task of telling who somebody is.

    Args:
        people: the classes, as `RecordSet.images_of_people` names people.
    """
    return Task(IDENTITY, "multiclass", tuple(people))


def as_classes(task: Task) -> Task:
    """The multiclass task of the same classes, by whose figures a distribution is judged too."""
    return dataclasses.replace(task, kind="multiclass") if task.kind == "distribution" else task


def most_voted(shares: np.ndarray) -> np.ndarray:
    """The class of each distribution `[N, n]` with the most votes, `[N]`; `UNKNOWN` of NaN.

    Of equal ones the first wins.
    """
    known = np.isfinite(shares).all(axis=-1)
    return np.where(known, np.where(known[..., None], shares, 0).argmax(axis=-1), UNKNOWN)


def list_labels(labels: Sequence[str], most: int = 50) -> str:
    """The labels as text; of more than `most`, the first five and how many there are."""
    if len(labels) <= most:
        return ", ".join(labels)
    return f"{', '.join(labels[:5])}, ... {len(labels):,} in all"


def normalise_label(name: str) -> str:
    """The letters and digits of a label name without case, for matching across files."""
    return "".join(filter(str.isalnum, name.lower()))


_CELEBA_BY_NORMALISED = {normalise_label(name): name for name in CELEBA_ATTRIBUTES}


def celeba_name(name: str) -> str | None:
    """CelebA's spelling of an attribute (LFW's files write `5 o' Clock Shadow`), or None if it has none."""
    return _CELEBA_BY_NORMALISED.get(normalise_label(name))


def join_labels(source: Task, target: Task) -> list[int]:
    """Where the labels of `target` stand in `source`: one index per label, -1 where it is absent.

    Raises:
        ValueError: name or kind differ, or classes or landmarks are others. That one class is right
            is a distribution too, so that a distribution is joined from a multiclass task.
    """
    of_votes = (source.kind, target.kind) == ("multiclass", "distribution")
    if source.name != target.name or (source.kind != target.kind and not of_votes):
        raise ValueError(
            f"task {source.name!r} ({source.kind}) is not task {target.name!r} ({target.kind})"
        )
    if source.kind in (*CLASS_KINDS, "landmarks", "transform") and source.labels != target.labels:
        raise ValueError(
            f"task {source.name!r}: labels {', '.join(source.labels)} are not "
            f"{', '.join(target.labels)}"
        )
    return [source.labels.index(name) if name in source.labels else -1 for name in target.labels]
