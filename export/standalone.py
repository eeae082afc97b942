"""Asks an exported model in a process that has TensorFlow and NumPy alone.

    python -I standalone.py MODEL QUESTIONS.npz ANSWERS.npz

What goes in: `bytes` and `lengths` (files one after the other), `box`, `landmarks`, `signatures`,
and for timing `timed_bytes`, `timed_lengths`, `timed_pixels`, `timed_box`, `timed_landmarks`,
`batch_sizes`. What comes out: `answer/<signature>/<output>` for all files, and
`seconds/<signature>` `[batch sizes, repetitions]`.
"""

import sys
import time

import numpy as np
import tensorflow as tf

BATCH = 32
REPETITIONS = 10
OF_PIXELS = ("pixels", "photo_pixels")


def cut(joined: np.ndarray, lengths: np.ndarray) -> list[bytes]:
    """Files that lie one after the other."""
    ends = np.cumsum(lengths)
    return [joined[end - length : end].tobytes() for end, length in zip(ends, lengths, strict=True)]


def ask(function, signature: str, files: list[bytes], box, landmarks) -> dict[str, np.ndarray]:
    """The answers of a signature for all files, in order."""
    pixels = signature in OF_PIXELS
    size = 1 if pixels else BATCH  # Pictures of one batch have one size.
    parts = []
    for begin in range(0, len(files), size):
        part = slice(begin, begin + size)
        if pixels:
            decode = tf.io.decode_image
            inputs = {"pixels": decode(files[begin], channels=3, expand_animations=False)[None]}
        else:
            inputs = {"image_bytes": tf.constant(files[part])}
            if signature == "crop":
                inputs |= {"box": tf.constant(box[part]), "landmarks": tf.constant(landmarks[part])}
        parts.append({name: value.numpy() for name, value in function(**inputs).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def time_calls(function, inputs: dict, size: int) -> list[float]:
    """Seconds of calls with the first `size` images."""
    inputs = {name: tf.constant(values[:size]) for name, values in inputs.items()}
    seconds = []
    for _ in range(REPETITIONS + 2):
        begin = time.perf_counter()
        for value in function(**inputs).values():
            value.numpy()
        seconds.append(time.perf_counter() - begin)
    return seconds[2:]


def main(model: str, questions: str, answers: str) -> None:
    """Answers the questions."""
    given = np.load(questions, allow_pickle=False)
    functions = tf.saved_model.load(model).signatures
    files = cut(given["bytes"], given["lengths"])
    found = {}
    for name in given["signatures"].tolist():
        for key, values in ask(
            functions[name], name, files, given["box"], given["landmarks"]
        ).items():
            found[f"answer/{name}/{key}"] = values
        if "timed_bytes" in given:
            inputs = {"image_bytes": cut(given["timed_bytes"], given["timed_lengths"])}
            if name in OF_PIXELS:
                inputs = {"pixels": given["timed_pixels"]}
            elif name == "crop":
                inputs |= {"box": given["timed_box"], "landmarks": given["timed_landmarks"]}
            found[f"seconds/{name}"] = np.array(
                [
                    time_calls(functions[name], inputs, size)
                    for size in given["batch_sizes"].tolist()
                ]
            )
    np.savez(answers, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
    loaded = {name.partition(".")[0] for name in sys.modules}
    if ours := {"faceattr_tf", "data_pipelines", "export"} & loaded:
        sys.exit(f"{', '.join(ours)} must not be needed")
