"""Tiny data sets of drawn faces in the official folder layouts, deterministic by seed.

Every label is drawn near half of the time in every part of a data set, independently of all others,
so that guessing the majority scores about 50 %. The same arguments write the same bytes.
"""

import collections
import csv
import io
import os
import pathlib
import shutil

import cv2
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.files import local, naming
from data_pipelines.formats.matlab import write_matlab
from data_pipelines.synth.ages_and_emotions import fairface, fer2013, utkface
from data_pipelines.synth.parts import (
    balanced_labels,
    draw_faces,
    draw_identities,
    draw_poses,
    name_of,
    partition,
    write_image,
    write_rows,
)
from data_pipelines.tasks import CELEBA_ATTRIBUTES, POSE_CLASSES, normalise_label

DRAWN = "drawn.txt"
"""A file in every folder of drawn faces, by which records and reports know them."""

LFWA_FURTHER_ATTRIBUTES = (
    *("Asian", "White", "Black", "Indian", "Baby", "Child", "Youth", "Middle Aged", "Senior"),
    *("No Eyewear", "Sunglasses", "Frowning", "Harsh Lighting", "Flash", "Soft Lighting"),
    *("Outdoor", "Curly Hair", "Fully Visible Forehead", "Partially Visible Forehead"),
    *("Obstructed Forehead", "Eyes Open", "Mouth Closed", "Mouth Wide Open"),
    *("Teeth Not Visible", "Round Jaw", "Square Face", "Round Face", "Color Photo", "Posed Photo"),
    *("Shiny Skin", "Strong Nose-Mouth Lines", "Flushed Face", "Brown Eyes"),
)
"""The 33 names beside CelebA's 40 in the drawn `lfw_att_73.mat`."""

# Those of the 33 that a drawn attribute shows by being absent; the others are noise.
_OPPOSITES = {
    "Senior": "Young",
    "No Eyewear": "Eyeglasses",
    "Frowning": "Smiling",
    "Fully Visible Forehead": "Bangs",
    "Eyes Open": "Narrow_Eyes",
    "Mouth Closed": "Mouth_Slightly_Open",
    "Square Face": "Oval_Face",
}


def draw(
    dataset: str,
    folder: str | os.PathLike,
    *,
    images: int = 64,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    **options,
) -> pathlib.Path:
    """Draws a data set into a new folder and returns it.

    Args:
        dataset: one of `LAYOUTS`.
        folder: must not exist or be empty; it is complete or absent, never half written.
        images: how many pictures there are in all, at least 10.
        seed: decides every label and every picture.
        size: height and width of each picture; the data set's own where it is None.
        **options: what the layout's own function takes.

    Raises:
        ValueError: there is no such data set.
        UserError: too few images, too small a size, or the folder holds something.
    """
    if dataset not in LAYOUTS:
        raise ValueError(f"no data set {dataset!r} to draw; there are: {', '.join(LAYOUTS)}")
    folder = local(folder)
    if images < 10:
        raise UserError(f"{images} images are too few for every split, expected at least 10")
    if size is not None and min(size) < 32:
        raise UserError(f"size {size[0]}x{size[1]} is too small to draw, expected at least 32x32")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: it is not empty, expected a new folder")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with naming(folder):
            LAYOUTS[dataset](partial, images, seed, size, **options)
            (partial / DRAWN).write_text("These faces were drawn by faceattr-data synth.\n")
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _celeba(folder, images, seed, size, in_the_wild=False):
    """CelebA: aligned pictures of 178x218, or `in_the_wild` ones with a border and boxes."""
    rng = np.random.default_rng([seed, 0])
    counts = partition(images)
    labels = balanced_labels(rng, counts)
    identities = draw_identities(rng, counts, highest=10_177)
    names = [f"{number:06d}.jpg" for number in range(1, images + 1)]
    pictures = folder / ("img_celeba" if in_the_wild else "img_align_celeba")
    points, boxes = [], []
    sizes = [size or (218, 178)] * images
    for name, (image, landmarks, box) in zip(
        names, draw_faces(seed, labels, draw_poses(rng, images), identities, sizes), strict=True
    ):
        if in_the_wild:
            top, bottom, left, right = rng.integers(10, 120, 4)
            image = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_REPLICATE)
            landmarks, box = landmarks + [left, top], box + [left, top, 0, 0]
        write_image(pictures / name, image)
        points.append(landmarks.ravel())
        boxes.append(box)
    signs = np.where(labels, 1, -1)
    header = [str(images), " ".join(CELEBA_ATTRIBUTES) + " "]
    write_rows(folder / "Anno/list_attr_celeba.txt", header, names, signs, 2)
    kind = "celeba" if in_the_wild else "align_celeba"
    places = ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
    header = [str(images), " ".join(f"{place}_{axis}" for place in places for axis in "xy")]
    write_rows(folder / f"Anno/list_landmarks_{kind}.txt", header, names, np.rint(points), 4)
    if in_the_wild:
        header = [str(images), "image_id x_1 y_1 width height"]
        write_rows(folder / "Anno/list_bbox_celeba.txt", header, names, np.rint(boxes), 4)
    write_rows(folder / "Anno/identity_CelebA.txt", [], names, identities[:, None])
    parts = np.repeat([0, 1, 2], counts)
    write_rows(folder / "Eval/list_eval_partition.txt", [], names, parts[:, None])


def _lfw(folder, images, seed, size):
    """LFW: up to ten folds of pairs, each of people of its own, and the two files of view 1."""
    rng = np.random.default_rng([seed, 0])
    identities, labels = draw_identities(rng, (images,)), balanced_labels(rng, (images,))
    files = _write_people(folder / "lfw", seed, rng, labels, identities, size)
    people = sorted(collections.Counter(file.partition("/")[0] for file in files).items())
    count = min(10, len(people) // 2)
    folds = [people[fold::count] for fold in range(count)]
    pairs = min(sum(images > 1 for _, images in fold) for fold in folds)
    _write_pairs(folder / "pairs.txt", f"{count}\t{pairs}", folds, pairs)
    halves = (people[::2], people[1::2]) if len(people) > 3 else (people, people)
    for name, half in zip(("pairsDevTrain.txt", "pairsDevTest.txt"), halves, strict=True):
        pairs = sum(images > 1 for _, images in half)
        _write_pairs(folder / name, f"{pairs}", [half], pairs)


def _write_people(folder, seed, rng, labels, identities, size) -> list[str]:
    """Draws LFW's folder a person, and returns the names of the images in it."""
    files, seen = [], collections.Counter()
    for person in map(name_of, identities):
        seen[person] += 1
        files.append(f"{person}/{person}_{seen[person]:04d}.jpg")
    sizes = [size or (250, 250)] * len(files)
    faces = draw_faces(seed, labels, draw_poses(rng, len(files)), identities, sizes)
    for file, (image, _, _) in zip(files, faces, strict=True):
        write_image(folder / file, image)
    return files


def _write_pairs(path, header, folds, count) -> None:
    """Rows of pairs: in each fold `count` of its people, then as many of two of them."""
    rows = [header]
    for fold in folds:
        several = [(name, images) for name, images in fold if images > 1]
        rows += [f"{name}\t1\t{images}" for name, images in several[:count]]
        others = zip(fold, fold[1:] + fold[:1], strict=True)
        rows += [f"{one}\t1\t{other}\t{last}" for (one, _), (other, last) in others][:count]
    path.write_text("\n".join([*rows, ""]), "ascii")


def _lfwa(folder, images, seed, size, attributes=40, matlab="7.3"):
    """LFWA: `attributes` 40 or 73, in a MATLAB file of version "7.3" (HDF5) or "5".

    A fiftieth of the pictures, at least one, is in no list. The 33 further attributes are NaN in
    the training half.
    """
    rng = np.random.default_rng([seed, 0])
    unlisted = max(1, images // 50)
    train = (images - unlisted) // 2
    counts = (train, images - unlisted - train)
    labels = balanced_labels(rng, (*counts, unlisted))
    identities = draw_identities(rng, (*counts, unlisted))
    files = _write_people(folder / "lfw", seed, rng, labels, identities, size)
    order = np.argsort(files[: sum(counts)])  # the official lists are alphabetical
    values = labels.astype(float)
    spelling = [name.replace("_", " ") for name in CELEBA_ATTRIBUTES]
    if attributes == 73:
        further = balanced_labels(rng, (images,), len(LFWA_FURTHER_ATTRIBUTES)).astype(float)
        for name, opposite in _OPPOSITES.items():
            column = LFWA_FURTHER_ATTRIBUTES.index(name)
            further[:, column] = ~labels[:, CELEBA_ATTRIBUTES.index(opposite)]
        further[:train] = np.nan
        values = np.concatenate([values, further], 1)
        spelling += LFWA_FURTHER_ATTRIBUTES
        columns = np.argsort([normalise_label(name) for name in spelling])
        values, spelling = values[:, columns], [spelling[column] for column in columns]
    cells = {
        "name": [files[row].replace("/", "\\") for row in order],
        "AttrName": spelling,
    }
    write_matlab(folder / f"lfw_att_{attributes}.mat", {"label": values[order]}, cells, matlab)
    rows = {
        "train": np.flatnonzero(order < train) + 1.0,
        "test": np.flatnonzero(order >= train) + 1.0,
    }
    people = np.unique([name_of(identity) for identity in identities], return_inverse=True)[1] + 1.0
    indices = {f"indices_img_{split}": row[:, None] for split, row in rows.items()}
    for split, row in rows.items():
        who = np.unique(people[order[row.astype(int) - 1]])
        indices[f"indices_identity_{split}"] = who[:, None]
    write_matlab(folder / "indices_train_test.mat", indices, {}, matlab)


def _mtfl(folder, images, seed, size):
    """MTFL with what its real files hold.

    Backslashes in the paths of `training.txt` only, a leading blank on every row but the first,
    CRLF and a lone blank at the end, some greyscale JPEGs, sides of 150 to 250 pixels, and a name
    that is not ASCII.
    """
    rng = np.random.default_rng([seed, 0])
    counts = (images - images // 5, images // 5)
    labels = balanced_labels(rng, counts)
    poses = np.concatenate([draw_poses(rng, count) for count in counts])
    sides = rng.integers(150, 251, (images, 2))
    sides[::2, 1] = sides[::2, 0]
    sizes = [size or (int(height), int(width)) for height, width in sides]
    files = []
    for index in range(images):
        if index >= counts[0]:
            files.append(f"AFLW/{index:04d}-image{rng.integers(10_000, 99_999)}.jpg")
        elif index < 0.4 * counts[0]:
            files.append(f"lfw_5590/{name_of(index)}_0001.jpg")
        else:
            files.append(f"net_7876/{'ñ_' * (index == counts[0] - 1)}{index}_0.jpg")
    rows = []
    faces = draw_faces(seed, labels, poses, range(images), sizes)
    for index, (image, landmarks, _) in enumerate(faces):
        if index % 9 == 4:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        write_image(folder / files[index], image)
        male, smiling, glasses = (
            2 - int(labels[index, CELEBA_ATTRIBUTES.index(name)])
            for name in ("Male", "Smiling", "Eyeglasses")
        )
        points = " ".join(f"{value:.6f}" for value in landmarks.T.ravel())
        rows.append(f"{points} {male} {smiling} {glasses} {poses[index] + 1}")
    train = [f"{file} {row}".replace("/", "\\") for file, row in zip(files, rows, strict=True)]
    test = [f"{file} {row}" for file, row in zip(files, rows, strict=True)]
    training = "\r\n ".join(train[: counts[0]]) + "\r\n "
    testing = "\r\n ".join(test[counts[0] :]) + "\r\n"
    (folder / "training.txt").write_bytes(training.encode())
    (folder / "testing.txt").write_bytes(testing.encode())


def _manifest(folder, images, seed, size):
    """`manifest.csv`: path, split, identity, age in years, pose, 40 attributes; some cells empty."""
    rng = np.random.default_rng([seed, 0])
    counts = partition(images)
    labels = balanced_labels(rng, counts)
    identities = draw_identities(rng, counts)
    poses = draw_poses(rng, images)
    splits = np.repeat(["train", "validation", "test"], counts)
    young = labels[:, CELEBA_ATTRIBUTES.index("Young")]
    ages = np.where(young, rng.integers(18, 40, images), rng.integers(45, 86, images))
    empty = rng.uniform(size=labels.shape) < 0.02
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["path", "split", "identity", "age", "pose", *CELEBA_ATTRIBUTES])
    faces = draw_faces(seed, labels, poses, identities, [size or (128, 128)] * images)
    for index, (image, _, _) in enumerate(faces):
        path = f"images/{index:05d}.jpg"
        write_image(folder / path, image)
        row = [
            "" if gap else int(yes) for yes, gap in zip(labels[index], empty[index], strict=True)
        ]
        pose = POSE_CLASSES[poses[index]]
        writer.writerow([path, splits[index], identities[index], ages[index], pose, *row])
    (folder / "manifest.csv").write_text(table.getvalue(), "utf-8")


LAYOUTS = {
    "celeba": _celeba,
    "fairface": fairface,
    "fer2013": fer2013,
    "lfw": _lfw,
    "lfwa": _lfwa,
    "manifest": _manifest,
    "mtfl": _mtfl,
    "utkface": utkface,
}
