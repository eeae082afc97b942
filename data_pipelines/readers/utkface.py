"""UTKFace: age, gender and group of faces, in the names of their files (Zhang et al., CVPR 2017)."""

import collections
import re
from collections.abc import Mapping

import numpy as np

from data_pipelines import tasks
from data_pipelines.errors import UserError
from data_pipelines.formats.images import ImageFolder
from data_pipelines.readers.base import About, AnnotatedFace, FaceBuilder, FacesOfRows

SPLITS = ("train",) * 8 + ("validation", "test")
"""The split of an image by its content: the remainder of its hash by ten."""

_NAME = re.compile(r"(\d{1,3})_([01]?)(?:_([0-4]?))?_(\d+)(.*)", re.ASCII)
_ENDINGS = (".jpg", ".jpg.chip.jpg")
_OLDEST = 120
_FEW = 5  # so many unreadable names may be there
_PARTS = ("part1", "part2", "part3")


class Utkface(FaceBuilder):
    """`UTKFace/AGE_GENDER_RACE_DATE.jpg.chip.jpg`, or the photographs in `part1/` to `part3/`.

    Age in years, gender 0 male and 1 female, race 0 White, 1 Black, 2 Asian, 3 Indian, 4 Others;
    what a name lacks is unknown. Names that end oddly are read, both are counted. The option
    `images=wild` takes the photographs in place of the aligned faces.

    The data set has neither parts nor people of its own: an image's content decides by a hash to
    which split it belongs, 80 % training, 10 % validation, 10 % test, so that the same file is never
    in two, whatever it is called. Copies of a file under other labels are counted.
    """

    ABOUT = About(
        title="UTKFace: faces with age, gender and group",
        homepage="https://susanqq.github.io/UTKFace/",
        licence="for non-commercial research only; the images belong to their owners",
        citation="Zhifei Zhang, Yang Song, Hairong Qi. Age Progression/Regression by Conditional "
        "Adversarial Autoencoder. CVPR 2017.",
        obtain="UTKFace is to be had from https://susanqq.github.io/UTKFace/: unpack "
        "UTKFace.tar.gz and give the folder that holds UTKFace",
    )
    OPTIONS: Mapping[str, tuple] = {"images": ("aligned", "wild")}

    def _locate(self):
        if self.options["images"] == "wild":
            self.need(*_PARTS)
            self.images = ImageFolder(self.source)
            return
        # The folder itself may be given.
        inside = any(map(_NAME.fullmatch, (path.name for path in self.source.glob("*.jpg"))))
        self.images = ImageFolder(self.source if inside else self.need("UTKFace"))

    def _info(self):
        groups = tasks.ethnicity_tasks(tasks.FIVE_GROUPS)
        return self.face_info((tasks.AGE, tasks.AGE_BINS, tasks.AGE_RANGE, tasks.MALE, *groups))

    def _faces(self):
        names = list(self.images.sizes)
        if self.options["images"] == "wild":
            names = [name for name in names if name.split("/")[0] in _PARTS]
            self.left_out["pictures outside of the parts"] = len(self.images.sizes) - len(names)
        found = {name: _NAME.fullmatch(name.rpartition("/")[2]) for name in names}
        named = {
            name: match.groups()
            for name, match in found.items()
            if match and int(match[1]) <= _OLDEST
        }
        self._check_names([name for name in names if name not in named], named)
        splits = collections.defaultdict(list)
        differing = 0
        for content, copies in self.copies(named).items():
            splits[SPLITS[int.from_bytes(content) % len(SPLITS)]] += copies
            labels = {named[name][:3] for name in copies}
            differing += len(copies) if len(labels) > 1 else 0
        self.noted["copies of a picture under other labels"] = differing
        self._note_names(named)

        def face(name: str) -> AnnotatedFace:
            return AnnotatedFace(name, _labels(*named[name][:3]))

        return {
            split: FacesOfRows(sorted(splits[split]), face)
            for split in dict.fromkeys(SPLITS)
            if splits[split]
        }

    def _check_names(self, wrong: list[str], named: Mapping) -> None:
        """Counts names that say nothing, or raises UserError where they are more than a few."""
        self.left_out["pictures whose names cannot be read"] = len(wrong)
        if not named or len(wrong) > max(self.max_bad, _FEW):
            such = f", such as {wrong[0]!r}" if wrong else ""
            raise UserError(
                f"{self.images.path}: {len(wrong):,} of {len(wrong) + len(named):,} pictures are not "
                f"named AGE_GENDER_RACE_DATE.jpg{such}. {self.ABOUT.obtain}"
            )

    def _note_names(self, named: Mapping[str, tuple]) -> None:
        notes = {
            "names without a gender": [name for name, of in named.items() if not of[1]],
            "names without a group": [name for name, of in named.items() if not of[2]],
            "names that end oddly": [name for name, of in named.items() if of[4] not in _ENDINGS],
        }
        for what, names in notes.items():
            if names:
                self.noted[f"{what}, such as {names[0]!r}"] = len(names)


def _labels(age: str, gender: str, race: str | None) -> dict:
    """Labels by task; what a name lacks is absent."""
    labels: dict = {"age": [float(age)]}
    for task in (tasks.AGE_BINS, tasks.AGE_RANGE):
        labels[task.name] = tasks.range_of(task, int(age))
    if gender:
        labels["attributes"] = [gender == "0"]
    if race:
        labels["ethnicity"] = int(race)
        labels["ethnicities"] = np.arange(len(tasks.FIVE_GROUPS)) == int(race)
    return labels
