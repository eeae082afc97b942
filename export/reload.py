"""python -m export.reload [--photos] MODEL IMAGE…: ask an exported model, as a server would.

MODEL is the folder of one version. With --photos it finds the faces of the images itself, which it
can if it was exported with --detect or --localiser. Only TensorFlow is needed, nothing of this
project.
"""

import json
import pathlib
import sys


def answer(model: str, images: list[str], photos: bool = False) -> list[dict]:
    """What the signature `serving_default`, or `photos`, says of image files.

    Args:
        model: folder of a version, `<folder>/<name>/<version>`.
        images: JPEG or PNG files.
        photos: whether the model is to find the faces.

    Returns:
        `{"image": file, task: {label: probability}}` for tasks with probabilities, per image; with
        `photos` per face, with its `box`, left, top, width and height in pixels.
    """
    import tensorflow as tf

    description = json.loads(pathlib.Path(model, "assets", "faceattr.json").read_text())
    signature = tf.saved_model.load(model).signatures["photos" if photos else "serving_default"]
    encoded = tf.constant([pathlib.Path(image).read_bytes() for image in images])
    outputs = {name: values.numpy() for name, values in signature(image_bytes=encoded).items()}
    rows = [{"image": image} for image in images]
    if photos:
        found = outputs["face_response"] > 0  # NaN where there is no further face
        outputs = {name: values[found] for name, values in outputs.items() if values.ndim > 1}
        boxes = zip(found.nonzero()[0], outputs["face_box"].tolist(), strict=True)
        rows = [{"image": images[index], "box": box} for index, box in boxes]
    for task in description["tasks"]:
        if name := task["outputs"].get("probability"):
            for row, values in zip(rows, outputs[name].tolist(), strict=True):
                row[task["name"]] = dict(zip(task["labels"], values, strict=True))
    return rows


def main(arguments: list[str]) -> None:
    """Prints, per image or face and task, the labels of which the model is surest."""
    photos = arguments[:1] == ["--photos"]
    model, *images = arguments[photos:] or [""]
    if not images:
        sys.exit(__doc__)
    for path in [pathlib.Path(model, "saved_model.pb"), *map(pathlib.Path, images)]:
        if not path.is_file():
            sys.exit(f"export.reload: error: {path}: no such file")
    for row in answer(model, images, photos):
        place = row.pop("image")
        if box := row.pop("box", None):
            place += " face {2:.0f} x {3:.0f} at ({0:.0f}, {1:.0f})".format(*box)
        for task, probabilities in row.items():
            surest = sorted(probabilities.items(), key=lambda item: -item[1])[:6]
            shown = ", ".join(f"{label} {probability:.2f}" for label, probability in surest)
            print(f"{place}: {task}: {shown}")


if __name__ == "__main__":
    main(sys.argv[1:])
