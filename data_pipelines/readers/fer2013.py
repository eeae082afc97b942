"""FER2013, emotions of grey faces, and the votes of FER+ (Goodfellow, 2013; Barsoum, ICMI 2016)."""

import collections
import functools
import pathlib
import re
from collections.abc import Mapping

import cv2
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.formats.images import ImageFolder
from data_pipelines.formats.user_table import UserTable, read_rows
from data_pipelines.readers.base import About, AnnotatedFace, FaceBuilder
from data_pipelines.tasks import EMOTIONS, Task

PARTS = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}
"""What the data set calls its parts -> their split."""

FERPLUS = (
    *("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"),
)
"""The emotions of FER+, in its order."""

_SAME = {
    "happiness": "happy",
    "sadness": "sad",
    "anger": "angry",
    **{name: name for name in ("neutral", "surprise", "disgust", "fear")},
}
"""FER+'s emotion -> FER2013's."""

_SIDE = 48
_AGAINST = 0.2  # of the votes; as few for the folder's emotion contradict it
_VOTES = (*FERPLUS, "unknown", "NF")


class Fer2013(FaceBuilder):
    """`fer2013.csv`, or the pictures in `Training/`, `PublicTest/`, `PrivateTest/` by emotion.

    Rows of the table are emotion (0 angry, 1 disgust, 2 fear, 3 happy, 4 sad, 5 surprise,
    6 neutral), 48x48 grey pixels and Usage, the part; they are stored as PNG. In the folders, a number
    in a picture's name is its row in that table, counted from 0. `PublicTest` is validation,
    `PrivateTest` test; where the latter is missing, `public=test` makes the former the test part
    (validation is then a share of training, chosen when records are used).

    Options:
        public: the split of `PublicTest`, validation or test.
        labels: `fer2013`, one of seven emotions. `ferplus`, the votes of ten people for eight
            (`fer2013new.csv` beside the pictures), as a distribution: pictures that most call
            unknown or no face are left out, such votes otherwise do not count. `ferplus_seven`, the
            same for FER2013's seven emotions, without votes for contempt and pictures that most
            call that: its records and those of `fer2013` share the task.
    """

    ABOUT = About(
        title="FER2013: grey faces with emotions",
        homepage="https://www.kaggle.com/c/challenges-in-representation-learning-facial-"
        "expression-recognition-challenge",
        licence="for research only; the images belong to their owners",
        citation="Ian Goodfellow et al. Challenges in Representation Learning: A Report on Three "
        "Machine Learning Contests. ICONIP 2013. Votes: Emad Barsoum et al. Training Deep Networks "
        "for Facial Expression Recognition with Crowd-Sourced Label Distribution. ICMI 2016.",
        obtain="FER2013 is a competition of kaggle.com (challenges-in-representation-learning-"
        "facial-expression-recognition-challenge), its votes are fer2013new.csv of "
        "https://github.com/microsoft/FERPlus: give the folder that holds fer2013.csv, or Training, "
        "PublicTest and PrivateTest",
    )
    OPTIONS: Mapping[str, tuple] = {
        "labels": ("fer2013", "ferplus", "ferplus_seven"),
        "public": ("validation", "test"),
    }

    def _locate(self):
        self.tables = {}
        if table := self.find("fer2013.csv", "fer2013/fer2013.csv"):
            self.tables["pixels"] = table
            self.images = PixelTable(table)
        else:
            self.need("fer2013.csv", *PARTS)
            self.images = ImageFolder(self.source)
        if self.options["labels"] != "fer2013":
            self.tables["votes"] = self.need("fer2013new.csv", "fer2013/fer2013new.csv")

    @property
    def _task(self) -> Task:
        if self.options["labels"] == "fer2013":
            return Task("emotion", "multiclass", EMOTIONS)
        classes = FERPLUS if self.options["labels"] == "ferplus" else EMOTIONS
        return Task("emotion", "distribution", classes)

    def _info(self):
        return self.face_info((self._task,))

    def _faces(self):
        found = self._labelled()
        splits = PARTS | {"PublicTest": self.options["public"]}
        parts = {part for part, _ in found.values()}
        if splits["PublicTest"] == "test" and "PrivateTest" in parts:
            raise UserError(
                f"{self.source}: option public=test, but there is PrivateTest, which is the test part"
            )
        self._note_copies(found)
        labels: dict = {name: emotion for name, (_, emotion) in found.items()}
        if self.options["labels"] != "fer2013":
            labels = self._voted(found)
        faces = collections.defaultdict(list)
        for name, label in labels.items():
            faces[splits[found[name][0]]].append(AnnotatedFace(name, {"emotion": label}))
        return {split: faces[split] for split in PARTS.values() if faces[split]}

    def _labelled(self) -> dict[str, tuple[str, int]]:
        """Name of a picture -> its part, and the index of its emotion."""
        found, folders = {}, collections.Counter()
        for name in self.images.sizes:
            part, *inside = name.split("/")
            if part not in PARTS or len(inside) < 2:
                continue
            emotion = inside[-2].lower()
            if emotion not in EMOTIONS:
                raise UserError(
                    f"{self.images.path}, {name}: folder {inside[-2]!r} is none of the emotions "
                    f"{', '.join(EMOTIONS)}"
                )
            found[name] = part, EMOTIONS.index(emotion)
            folders[part] += 1
        self.left_out["pictures in no folder of an emotion"] = len(self.images.sizes) - len(found)
        if not folders["Training"]:
            raise UserError(
                f"{self.images.path}: no picture of an emotion in Training. {self.ABOUT.obtain}"
            )
        return found

    def _note_copies(self, found: Mapping[str, tuple[str, int]]) -> None:
        groups = [group for group in self.copies(found).values() if len(group) > 1]
        apart = [group for group in groups if len({found[name][0] for name in group}) > 1]
        differ = [group for group in groups if len({found[name][1] for name in group}) > 1]
        self.noted["copies of a picture in several parts"] = sum(map(len, apart))
        self.noted["copies of a picture under other emotions"] = sum(map(len, differ))

    def _voted(self, found: Mapping[str, tuple[str, int]]) -> dict[str, np.ndarray]:
        """Name of a picture -> shares of the votes; what has none that count is left out."""
        rows = read_rows(self.tables["votes"])
        votes = np.stack([_counts(rows, name) for name in _VOTES], axis=1)
        usage = rows.column("Usage")
        numbers = {name: _number(name) for name in found}
        self._check_rows(rows, votes, usage, numbers, found)
        named = set(numbers.values())
        self.noted["rows of votes without a picture"] = len(set(range(len(rows))) - named)
        seven = self.options["labels"] == "ferplus_seven"
        dropped = ("contempt", "unknown", "NF") if seven else ("unknown", "NF")
        shares, without, most = {}, 0, collections.Counter()
        for name, number in numbers.items():
            if not 0 <= number < len(rows) or not votes[number].any():
                without += 1
            elif (winner := _VOTES[votes[number].argmax()]) in dropped:
                most[winner] += 1
            else:
                counted = dict(zip(_VOTES, votes[number], strict=True))
                if seven:
                    counted = {_SAME.get(voted, voted): count for voted, count in counted.items()}
                kept = np.array([counted[label] for label in self._task.labels])
                shares[name] = kept / kept.sum()
        self.left_out["pictures without votes"] = without
        for winner in dropped:
            what = "no face" if winner == "NF" else winner
            self.left_out[f"pictures that most votes call {what}"] = most[winner]
        return shares

    def _check_rows(self, rows: UserTable, votes, usage, numbers, found) -> None:
        """Raises UserError where the votes are those of other pictures."""
        known = {name: row for name, row in numbers.items() if 0 <= row < len(rows)}
        if not known:
            raise UserError(
                f"{rows.path}: no picture, such as {next(iter(found))!r}, is numbered as one of its "
                f"{len(rows):,} rows"
            )
        for name, row in known.items():
            if usage[row].strip() != found[name][0]:
                raise UserError(
                    f"{rows.where(row)}: Usage is {usage[row]!r}, but {name!r} is numbered as this "
                    f"row, counted from 0"
                )
        columns = np.array([_VOTES.index(_ferplus_name(emotion)) for emotion in EMOTIONS])
        places = np.array(list(known.values()))
        own = votes[places, columns[[found[name][1] for name in known]]]
        total = votes[places].sum(axis=1)
        against = (own <= _AGAINST * total)[total > 0]
        if against.mean() > 0.5:
            raise UserError(
                f"{rows.path}: of {len(against):,} pictures {against.sum():,} have hardly a vote for "
                "the emotion of their folder: its rows seem to be those of other pictures"
            )


class PixelTable:
    """The pictures of `fer2013.csv` as PNG files: `PART/EMOTION/ROW.png`.

    Attributes:
        left_out: nothing; as of `ImageFolder`.
    """

    def __init__(self, path: pathlib.Path):
        """Remembers the table; it is read when first asked."""
        self.path, self.left_out = path, collections.Counter()

    @functools.cached_property
    def _rows(self) -> dict[str, np.ndarray]:
        rows = read_rows(self.path)
        emotions = rows.parse(
            "emotion", dict(zip("0123456", EMOTIONS, strict=True)).__getitem__, "one of 0 to 6"
        )
        parts = rows.parse("Usage", {part: part for part in PARTS}.__getitem__, ", ".join(PARTS))
        pixels = [_pixels(rows, row, text) for row, text in enumerate(rows.column("pixels"))]
        names = zip(parts, emotions, range(len(rows)), strict=True)
        return {f"{part}/{of}/{row:08d}.png": pixels[row] for part, of, row in names}

    @functools.cached_property
    def sizes(self) -> dict[str, int]:
        """Number of pixels of every picture, by its name."""
        return dict.fromkeys(sorted(self._rows), _SIDE * _SIDE)

    def read(self, name: str) -> bytes:
        """A picture as a PNG file."""
        return cv2.imencode(".png", self._rows[name])[1].tobytes()


def _pixels(rows: UserTable, row: int, text: str) -> np.ndarray:
    try:
        values = np.array(text.split(), np.int64)
        if len(values) != _SIDE * _SIDE or values.min() < 0 or values.max() > 255:
            raise ValueError
    except ValueError:
        raise UserError(
            f"{rows.where(row)}: pixels is {text[:20]!r}..., expected {_SIDE * _SIDE} numbers from 0 "
            "to 255"
        ) from None
    return values.astype(np.uint8).reshape(_SIDE, _SIDE)


def _number(name: str) -> int:
    """The row that a picture's name points to; -1 where it has no number."""
    digits = re.findall(r"\d+", name.rpartition("/")[2], re.ASCII)
    return int(digits[0]) if digits else -1


def _counts(rows: UserTable, column: str) -> np.ndarray:
    def count(text: str) -> int:
        if (value := int(text)) < 0:
            raise ValueError(text)
        return value

    return rows.parse(column, count, "a number of votes")


def _ferplus_name(emotion: str) -> str:
    return next(theirs for theirs, ours in _SAME.items() if ours == emotion)
