"""What all readers share: the schema of records, and images that are checked while being read."""

import collections
import dataclasses
import hashlib
import json
import os
import pathlib
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from data_pipelines.errors import UserError
from data_pipelines.formats.corrections import Corrections
from data_pipelines.formats.detections import read_detections
from data_pipelines.formats.encoded import MAX_PIXELS, read_header, upright
from data_pipelines.formats.images import ImageArchive, ImageFolder, decodes
from data_pipelines.tasks import LANDMARKS, Task

# Bad images beyond the limit after which reading on would only repeat the same complaint.
_GIVE_UP = 20
_FEW = 5  # so many missing images are named one by one

TURNED = "turned upright"


@dataclasses.dataclass(frozen=True)
class About:
    """Where a data set comes from: shown in errors, stored with records, quoted in reports."""

    title: str
    homepage: str = ""
    licence: str = ""
    citation: str = ""
    obtain: str = ""


@dataclasses.dataclass(frozen=True)
class AnnotatedFace:
    """One annotated image, a row of a data set's tables.

    Attributes:
        filename: path of the image relative to the image root, `/` between the parts.
        labels: task name -> label in the task's shape; tasks that are absent are unknown.
        box: `[4]` left, top, width, height in pixels, or None.
        landmarks: `[5, 2]` (x, y) in pixels in the order of `tasks.LANDMARK_NAMES`, or None.
        identity: number of the person, -1 where unknown.
    """

    filename: str
    labels: Mapping[str, np.ndarray | int]
    box: np.ndarray | None = None
    landmarks: np.ndarray | None = None
    identity: int = -1


class LoadedImage(NamedTuple):
    """An image as it is stored.

    Attributes:
        data: its encoded bytes.
        size: height and width in pixels.
        fault: what is wrong with one that cannot be stored, "" for nothing.
        change: how it was changed, "" for nothing.
    """

    data: bytes = b""
    size: tuple[int, int] = (0, 0)
    fault: str = ""
    change: str = ""


MISSING = LoadedImage(fault="is missing")


class FacesOfRows(Sequence):
    """Faces that are made when they are asked for, so that tables alone are held in memory.

    Args:
        rows: what `make` takes, one for each face.
        make: the face of a row.
    """

    def __init__(self, rows: Sequence, make: Callable[..., AnnotatedFace]):
        """Makes none yet."""
        self._rows, self._make = rows, make

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index):
        return self._make(self._rows[index])


class _OwnInfo(tfds.core.DatasetInfo):
    """What is known of records before they are built: what the reader says."""

    def initialize_from_bucket(self) -> None:
        """Asks no server for more, for which an empty temporary folder would be left behind."""


class FaceBuilder(tfds.core.GeneratorBasedBuilder):
    """A reader: a TensorFlow Datasets builder over the folder that its user unpacked.

    A subclass states `ABOUT` and `OPTIONS` and has three short methods: `_locate` finds its files
    (and refuses a tree that lacks one), `_info` names its tasks through `face_info`, `_faces` reads
    the tables.

    Args:
        source: the folder (or file) that holds the data set; never written to.
        data_dir: where TensorFlow Datasets puts its own layout of folders.
        detections: table of `faceattr-data detect`, joined in by filename; what the data set
            annotates itself wins over what was detected.
        corrections: table of labels that are replaced, see `formats.corrections`.
        max_bad: images that may be missing or undecodable before `records.build` fails.
        max_pixels: an image that is larger by its header counts as undecodable.
        progress: show a bar, on a terminal.
        **options: the reader's own, see `OPTIONS`.

    Raises:
        UserError: the source lacks a file, an option is unknown, or a table is wrong.
    """

    VERSION = tfds.core.Version("1.0.0")
    ABOUT = About("")
    OPTIONS: Mapping[str, tuple] = {}
    """Option -> allowed values, the first being the default; an empty tuple allows any text."""
    NUMBERING = ""
    """Whose numbers those of people are, where other record sets number people alike."""
    LATER_OPTIONS: frozenset[str] = frozenset()
    """Options that count in the fingerprint only when they are used: records from before them."""

    def __init__(
        self,
        *,
        source,
        data_dir,
        detections=None,
        corrections=None,
        max_bad: int = 0,
        max_pixels: int = MAX_PIXELS,
        progress: bool = True,
        **options,
    ):
        """Finds the files and checks the options; reads no table yet."""
        self.source = pathlib.Path(source)
        self.max_bad, self.max_pixels, self.progress = max_bad, max_pixels, progress
        self.options = self._checked_options(options)
        self.bad: dict[str, str] = {}
        self.left_out: dict[str, int] = {}
        self.noted: dict[str, int] = {}  # what the records hold although it is odd
        self.changed = collections.Counter()
        self.tables: dict[str, pathlib.Path] = {}
        self.images: ImageFolder | ImageArchive
        self.tasks: tuple[Task, ...]
        if not self.source.exists():
            raise UserError(f"{self.source}: no such folder. {self.ABOUT.obtain}".rstrip())
        self._detections_path = detections
        self._detected = read_detections(detections) if detections else {}
        self.corrections = Corrections(corrections) if corrections else None
        self.joined = 0
        self.shared: set[str] = set()  # images of several faces, each of which has a row and a box
        self._locate()
        super().__init__(data_dir=data_dir)
        if self.corrections:
            self.corrections.check_tasks(self.tasks)

    def _checked_options(self, options) -> dict:
        for name, value in options.items():
            if name not in self.OPTIONS:
                known = ", ".join(self.OPTIONS) or "none"
                raise UserError(f"reader {self.name}: no option {name!r}; it has: {known}")
            allowed = self.OPTIONS[name]
            if allowed and value not in allowed:
                raise UserError(
                    f"reader {self.name}: {name}={value!r} is none of {', '.join(allowed)}"
                )
        return {name: (values or ("",))[0] for name, values in self.OPTIONS.items()} | options

    def _locate(self) -> None:
        """Fills `tables` (annotation files by role) and `images`, or raises UserError."""
        raise UserError(f"reader {self.name} does not say where its files are")

    def find(self, *candidates: str) -> pathlib.Path | None:
        """The first of several places below the source that exists."""
        return next((p for c in candidates if (p := self.source / c).exists()), None)

    def need(self, *candidates: str) -> pathlib.Path:
        """Like `find`, but a missing file is the user's mistake: the error says where to get it."""
        found = self.find(*candidates)
        if found is None:
            others = f" (nor {', '.join(candidates[1:])})" if candidates[1:] else ""
            raise UserError(
                f"{self.source}: there is no {candidates[0]}{others}. {self.ABOUT.obtain}".rstrip()
            )
        return found

    def face_info(self, tasks: Iterable[Task]) -> tfds.core.DatasetInfo:
        """The schema of records that hold these tasks; landmarks are stored as a field only."""
        self.tasks = tuple(tasks)
        features = {
            "image": tfds.features.Image(),
            "filename": tfds.features.Text(),
            "box": tfds.features.Tensor(shape=(4,), dtype=np.float32),
            "landmarks": tfds.features.Tensor(shape=LANDMARKS.label_shape, dtype=np.float32),
            "identity": tfds.features.Scalar(np.int64),
        }
        stored = {
            task.name: tfds.features.Tensor(
                shape=task.label_shape, dtype=np.dtype(task.label_dtype)
            )
            for task in self._stored_tasks()
        }
        return _OwnInfo(
            builder=self,
            description=self.ABOUT.title,
            features=tfds.features.FeaturesDict(features | ({"tasks": stored} if stored else {})),
            homepage=self.ABOUT.homepage,
            citation=self.ABOUT.citation,
            license=self.ABOUT.licence,
        )

    def _stored_tasks(self) -> list[Task]:
        return [task for task in self.tasks if task.kind != "landmarks"]

    def copies(self, names: Iterable[str]) -> dict[bytes, list[str]]:
        """A hash of the bytes of an image -> the names of all that have these bytes.

        One that cannot be read stands alone.
        """
        groups = collections.defaultdict(list)
        for name in names:
            try:
                data = self.images.read(name)
            except (OSError, zipfile.BadZipFile, zlib.error):
                data = os.fsencode(name)
            groups[hashlib.sha256(data).digest()].append(name)
        return groups

    def fingerprint(self) -> str:
        """A hash of all that decides what the records hold: tables, images, options, detections.

        Images count by name and size, tables by their bytes; where the source lies does not count.
        """
        digest = hashlib.sha256(f"{self.name} {self.VERSION}\n".encode())
        unused = self.LATER_OPTIONS & {
            name
            for name, values in self.OPTIONS.items()
            if self.options[name] == (values or ("",))[0]
        }
        options = {name: value for name, value in self.options.items() if name not in unused}
        digest.update(json.dumps(options, sort_keys=True, default=str).encode())
        tables = dict(self.tables)
        if self._detections_path:
            tables["detections"] = pathlib.Path(self._detections_path)
        if self.corrections:
            tables["corrections"] = self.corrections.path
        for role, path in sorted(tables.items()):
            digest.update(f"\n{role} {hashlib.sha256(path.read_bytes()).hexdigest()}".encode())
        for name, size in self.images.sizes.items():
            digest.update(b"\n%s %d" % (os.fsencode(name), size))
        return digest.hexdigest()

    def _faces(self) -> Mapping[str, Sequence[AnnotatedFace]]:
        """The faces of every split in any order, images or not; counts what is left out."""
        raise UserError(f"reader {self.name} does not say which faces there are")

    def faces(self) -> dict[str, Sequence[AnnotatedFace]]:
        """The faces of every split, in which what was detected is joined."""
        found = self._faces()
        if self.corrections:
            names = (face.filename for faces in found.values() for face in faces)
            self.corrections.check_pictures(names)
        # It is not known which of several faces was detected.
        detected = {name: each for name, each in self._detected.items() if name not in self.shared}
        if not detected:
            return dict(found)
        self.joined = sum(face.filename in detected for faces in found.values() for face in faces)

        def join(face: AnnotatedFace) -> AnnotatedFace:
            box, landmarks = detected.get(face.filename, (None, None))
            return dataclasses.replace(
                face,
                box=_first_known(face.box, box, np.full(4, np.nan)),
                landmarks=_first_known(face.landmarks, landmarks, LANDMARKS.unknown()),
            )

        return {split: FacesOfRows(faces, join) for split, faces in found.items()}

    def key(self, face: AnnotatedFace) -> bytes:
        """What is different for every face of a split."""
        # An array would be shown rounded.
        box = f" {list(face.box)}" if face.filename in self.shared else ""
        return os.fsencode(face.filename + box)

    def _split_generators(self, dl_manager):
        """What TensorFlow Datasets asks for; `records.build` writes the same without it."""
        return {split: self._generate_examples(faces) for split, faces in self.faces().items()}

    def _generate_examples(self, faces):
        for face in faces:
            image = self.load(face.filename)
            if not image.fault:
                yield self.key(face), self.record(face, image.data)

    def load(self, filename: str) -> LoadedImage:
        """Reads and checks the image of a face, and makes it one that all decoders show alike."""
        if filename not in self.images.sizes:
            return MISSING
        try:
            data = self.images.read(filename)
        except (OSError, zipfile.BadZipFile, zlib.error) as error:
            return LoadedImage(fault=f"cannot be read ({error})")
        try:
            header = read_header(data, self.max_pixels)
            image = data if header.plain else upright(data, self.max_pixels)
        except UserError as error:
            return LoadedImage(fault=f"does not decode: {error}")
        if not decodes(data if header.format in ("JPEG", "MPO", "PNG") else image):
            return LoadedImage(fault="does not decode")
        if header.plain:
            return LoadedImage(image, (header.height, header.width))
        turned = header.orientation != 1
        change = TURNED if turned else f"stored as PNG ({header.format})"
        stored = read_header(image, self.max_pixels)
        return LoadedImage(image, (stored.height, stored.width), change=change)

    def note_bad(self, filename: str, fault: str) -> None:
        """Counts and names an image that is left out; raises UserError after too many."""
        self.bad[filename] = fault
        tqdm.write(f"{self.name}: image {filename} {fault}", file=sys.stderr)
        if len(self.bad) > self.max_bad + _GIVE_UP:
            self.check_bad(so_far=True)

    def check_missing(self, names: Sequence[str], where: str, advice: str) -> None:
        """Says in one line that many images are missing, before each is complained of by name.

        Args:
            names: the images that are wanted.
            where: what names them, as the error says it.
            advice: the end of the error, what the user can do.
        """
        missing = [name for name in names if name not in self.images.sizes]
        if len(missing) > max(self.max_bad, _FEW):
            raise UserError(
                f"{self.images.path}: {len(missing):,} of {len(names):,} images of {where} are "
                f"missing, such as {missing[0]}, more than --max_bad={self.max_bad}{advice}"
            )

    def check_bad(self, so_far: bool = False) -> None:
        """Raises UserError if more images are bad than `max_bad` allows."""
        if len(self.bad) > self.max_bad:
            shown = ", ".join(f"{name} {fault}" for name, fault in list(self.bad.items())[:5])
            raise UserError(
                f"{self.source}: {len(self.bad)} bad images{' so far' if so_far else ''}, more than "
                f"--max_bad={self.max_bad}: {shown}{', ...' if len(self.bad) > 5 else ''}"
            )

    def check_joined(self) -> None:
        """Raises UserError if a table of detections was given and fits no image."""
        if self._detected and not self.joined:
            raise UserError(
                f"{self._detections_path}: none of its files, such as "
                f"{next(iter(self._detected))!r}, is an image of the data set, such as "
                f"{next(iter(self.images.sizes), 'none')!r}; run detect on {self.images.path}"
            )

    def record(self, face: AnnotatedFace, image: bytes) -> dict:
        """What is stored of a face, by the names of `face_info`."""
        record = {
            "image": image,
            "filename": os.fsencode(face.filename),
            "box": _first_known(face.box, np.full(4, np.nan)),
            "landmarks": _first_known(face.landmarks, LANDMARKS.unknown()),
            "identity": face.identity,
        }
        labels = {
            task.name: np.asarray(face.labels.get(task.name, task.unknown()), task.label_dtype)
            for task in self._stored_tasks()
        }
        if self.corrections:
            labels = self.corrections.apply(face.filename, labels, self._stored_tasks())
        return record | ({"tasks": labels} if labels else {})


def _first_known(*values) -> np.ndarray:
    """The first of several that holds a number, or else the last."""
    known = (value for value in values if value is not None and not np.isnan(value).all())
    return np.float32(next(known, values[-1]))
