"""python -m export.reload MODEL IMAGE…: ask an exported model, as a server would.

MODEL is the folder of one version. Only TensorFlow is needed, nothing of this project.
"""

import json
import pathlib
import sys


def answer(model: str, images: list[str]) -> list[dict]:
    """What the signature `serving_default` says of image files.

    Args:
        model: folder of a version, `<folder>/<name>/<version>`.
        images: JPEG or PNG files.

    Returns:
        Per image `{"image": file, task: {label: probability}}` for tasks with probabilities.
    """
    import tensorflow as tf

    description = json.loads(pathlib.Path(model, "assets", "faceattr.json").read_text())
    signature = tf.saved_model.load(model).signatures["serving_default"]
    encoded = tf.constant([pathlib.Path(image).read_bytes() for image in images])
    outputs = signature(image_bytes=encoded)
    rows = [{"image": image} for image in images]
    for task in description["tasks"]:
        if name := task["outputs"].get("probability"):
            for row, values in zip(rows, outputs[name].numpy().tolist(), strict=True):
                row[task["name"]] = dict(zip(task["labels"], values, strict=True))
    return rows


def main(arguments: list[str]) -> None:
    """Prints, per image and task, the labels of which the model is surest."""
    if len(arguments) < 2:
        sys.exit(__doc__)
    needed = [pathlib.Path(arguments[0], "saved_model.pb"), *map(pathlib.Path, arguments[1:])]
    for path in needed:
        if not path.is_file():
            sys.exit(f"export.reload: error: {path}: no such file")
    for row in answer(arguments[0], arguments[1:]):
        image = row.pop("image")
        for task, probabilities in row.items():
            surest = sorted(probabilities.items(), key=lambda item: -item[1])[:6]
            shown = ", ".join(f"{label} {probability:.2f}" for label, probability in surest)
            print(f"{image}: {task}: {shown}")


if __name__ == "__main__":
    main(sys.argv[1:])
