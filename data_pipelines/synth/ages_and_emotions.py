"""Layouts of data sets of ages, groups and emotions.

Age is drawn as old or young, gender as in all layouts, an emotion by brows, eyes and mouth; a group
has no look here: those are drawn by lot.
"""

import csv

import cv2
import numpy as np

from data_pipelines.synth.parts import (
    balanced_labels,
    draw_faces,
    draw_poses,
    partition,
    write_image,
)
from data_pipelines.tasks import (
    AGE_RANGE,
    CELEBA_ATTRIBUTES,
    EMOTIONS,
    FIVE_GROUPS,
    SEVEN_GROUPS,
    range_of,
)

_LOOKS = {
    "angry": ("Bushy_Eyebrows", "Narrow_Eyes"),
    "disgust": ("Big_Nose", "Narrow_Eyes"),
    "fear": ("Arched_Eyebrows", "Bags_Under_Eyes"),
    "happy": ("Smiling",),
    "sad": ("Bags_Under_Eyes",),
    "surprise": ("Arched_Eyebrows", "Mouth_Slightly_Open"),
    "neutral": (),
}
_MALE, _YOUNG = map(CELEBA_ATTRIBUTES.index, ("Male", "Young"))


def _ages(rng, labels: np.ndarray) -> np.ndarray:
    count = len(labels)
    return np.where(labels[:, _YOUNG], rng.integers(1, 45, count), rng.integers(45, 100, count))


def utkface(folder, images, seed, size):
    """UTKFace with what its real names hold: one lacks its group, one a dot, one has a blank."""
    rng = np.random.default_rng([seed, 0])
    labels = balanced_labels(rng, (images,))
    ages, groups = _ages(rng, labels), rng.permutation(np.arange(images) % len(FIVE_GROUPS))
    faces = draw_faces(
        seed, labels, draw_poses(rng, images), range(images), [size or (200, 200)] * images
    )
    for index, (image, _, _) in enumerate(faces):
        group = "" if index == 1 else f"_{groups[index]}"
        ending = {2: "jpg.chip.jpg", 3: " .jpg.chip.jpg"}.get(index, ".jpg.chip.jpg")
        date = f"201701{10 + index % 20}{index:09d}"
        gender = 1 - int(labels[index, _MALE])
        write_image(folder / "UTKFace" / f"{ages[index]}_{gender}{group}_{date}{ending}", image)


def fairface(folder, images, seed, size):
    """FairFace: a fifth of the pictures, at least two, are in `val`."""
    rng = np.random.default_rng([seed, 0])
    counts = (images - images // 5, images // 5)
    labels = balanced_labels(rng, counts)
    ages, groups = _ages(rng, labels), rng.permutation(np.arange(images) % len(SEVEN_GROUPS))
    faces = draw_faces(
        seed, labels, draw_poses(rng, images), range(images), [size or (224, 224)] * images
    )
    header, tables = ("file", "age", "gender", "race", "service_test"), {"train": [], "val": []}
    for index, (image, _, _) in enumerate(faces):
        part = "train" if index < counts[0] else "val"
        name = f"{part}/{len(tables[part]) + 1}.jpg"
        write_image(folder / name, image)
        age = AGE_RANGE.labels[range_of(AGE_RANGE, ages[index])]
        gender = "Male" if labels[index, _MALE] else "Female"
        group = SEVEN_GROUPS[groups[index]]
        group = group if group == "Latino_Hispanic" else group.replace("_", " ")
        tables[part].append((name, age, gender, group, index % 2 == 0))
    for part, rows in tables.items():
        with open(folder / f"fairface_label_{part}.csv", "w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *rows])


def fer2013(folder, images, seed, size):
    """FER2013 in folders, with FER+'s votes: six of ten or more are for the emotion drawn."""
    rng = np.random.default_rng([seed, 0])
    counts = partition(images)
    labels = balanced_labels(rng, counts)
    emotions = rng.permutation(np.arange(images) % len(EMOTIONS))
    for name in {name for names in _LOOKS.values() for name in names}:
        shown = [name in _LOOKS[EMOTIONS[emotion]] for emotion in emotions]
        labels[:, CELEBA_ATTRIBUTES.index(name)] = shown
    parts = np.repeat(["Training", "PublicTest", "PrivateTest"], counts)
    columns = ("neutral", "happy", "surprise", "sad", "angry", "disgust", "fear")
    names = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear")
    rows = [("Usage", "Image name", *names, "contempt", "unknown", "NF")]
    faces = draw_faces(
        seed, labels, draw_poses(rng, images), range(images), [size or (48, 48)] * images
    )
    for index, (image, _, _) in enumerate(faces):
        emotion = EMOTIONS[emotions[index]]
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        write_image(folder / f"{parts[index]}/{emotion.title()}/{index:08d}.jpg", grey)
        others = rng.multinomial(rng.integers(0, 5), np.full(10, 0.1))
        others[columns.index(emotion)] += 10 - others.sum()
        rows.append((parts[index], f"fer{index:07d}.png", *others))
    with open(folder / "fer2013new.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
