"""LFW, Labeled Faces in the Wild (Huang et al. 2007): who is who, for verification."""

import pathlib
import re
from collections.abc import Sequence

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.formats.images import ImageArchive, ImageFolder
from data_pipelines.formats.pairs import image_name, read_pairs
from data_pipelines.readers.base import About, AnnotatedFace, FaceBuilder

_TREES = ("lfw", "lfw-deepfunneled", "lfw_funneled")
_PAIRS = ("pairs.txt", "pairsDevTrain.txt", "pairsDevTest.txt")
_IMAGE = re.compile(r"(?P<person>[^/]+)/(?P=person)_\d{4,}\.\w+")
_SPLIT = "test"


class Lfw(FaceBuilder):
    """`lfw/PERSON/PERSON_0001.jpg`, beside it `pairs.txt` and those of the development view.

    The source is the folder that holds `lfw`, `lfw-deepfunneled` or `lfw_funneled`, packed as ZIP
    or not, or this tree itself. All images are read; the pairs, where they lie beside the tree,
    say which have to be there. A person's number is the place of the folder's name among all
    sorted ones, and the name is the folder of the image's name.

    All images are the one split `test`: LFW is there to be measured on. Its protocol draws ten
    folds of pairs over all people (view 2), and the development view's pairs show the same images,
    so that no part of the images is free to be trained on; a training command which is given these
    records says that there is no `train`.
    """

    ABOUT = About(
        title="LFW: Labeled Faces in the Wild",
        homepage="http://vis-www.cs.umass.edu/lfw/",
        licence="for non-commercial research only; the images belong to their owners",
        citation="Gary B. Huang, Manu Ramesh, Tamara Berg, Erik Learned-Miller. Labeled Faces in "
        "the Wild: A Database for Studying Face Recognition in Unconstrained Environments. "
        "University of Massachusetts, Amherst, Technical Report 07-49, 2007.",
        obtain="LFW is to be had from http://vis-www.cs.umass.edu/lfw/: unpack lfw.tgz, or the "
        "deep-funneled images, and put pairs.txt, pairsDevTrain.txt and pairsDevTest.txt beside "
        "the folder",
    )

    def _locate(self):
        trees = (name + ending for name in _TREES for ending in ("", ".zip"))
        self.images = images_at(self.find(*trees) or self.source)
        if not any(map(_IMAGE.fullmatch, self.images.sizes)):
            raise UserError(
                f"{self.source}: there is no image PERSON/PERSON_0001.jpg. {self.ABOUT.obtain}"
            )
        self.tables = {name: path for name in _PAIRS if (path := self.find(name))}

    def _info(self):
        return self.face_info(())

    def _faces(self):
        names = list(filter(_IMAGE.fullmatch, self.images.sizes))
        self.left_out["images that are not PERSON/PERSON_0001.jpg"] = len(self.images.sizes) - len(
            names
        )
        paired = {name for path in self.tables.values() for name in read_pairs(path).images.flat}
        names += sorted(f"{name}.jpg" for name in paired.difference(map(image_name, names)))
        faces = [
            AnnotatedFace(name, {}, identity=number)
            for name, number in zip(names, number_people(names), strict=True)
        ]
        return {_SPLIT: faces}


def images_at(path: pathlib.Path) -> ImageFolder | ImageArchive:
    """The images of LFW's tree: unpacked, once nested as in some copies, or in a ZIP archive."""
    if not path.is_dir():
        return ImageArchive(path, path.stem)
    nested = path / path.name
    return ImageFolder(nested if nested.is_dir() else path)


def number_people(names: Sequence[str]) -> np.ndarray:
    """The number of the person of every image `PERSON/...`: the place among all sorted people."""
    people = [name.rpartition("/")[0] for name in names]
    return np.unique(people, return_inverse=True)[1]
