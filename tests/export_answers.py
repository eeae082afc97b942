"""What exports answer, beside what the `Analyzer` says: for tests of their signatures."""

import numpy as np
import pytest

import export
from export import saved_model
from export.description import read_description


def export_for_photographs(workdir, folder, localiser, **options):
    """An export of `workdir` with what finds faces in its graph.

    It is not compared with the workdir, which would load it once more: tests do that better.
    """
    options = export.ExportOptions(batch_sizes=(1,), **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saved_model, "_check", lambda *_: None)
        return export.export_model(workdir.path, folder, options=options, localiser=localiser)


def ask(signatures, name, **inputs):
    """The answers of a signature by photograph: output -> array."""
    import tensorflow as tf

    inputs = {key: tf.constant(values) for key, values in inputs.items()}
    found = {key: values.numpy() for key, values in signatures[name](**inputs).items()}
    count = len(found["faces"])
    return [{key: values[row] for key, values in found.items()} for row in range(count)]


def assert_answers(found, faces, most, tolerance, others=None, **expected):
    """The answers for one photograph are what the analyzer says of its faces, `most` at most.

    Args:
        found: output -> array.
        faces: those of the analyzer.
        most: rows of every output; those without a face hold NaN, or -1.
        tolerance: absolute difference that is allowed.
        others: output -> that of its own.
        expected: further outputs, a row per face.
    """
    assert found["faces"] == len(faces)
    expected |= expected_of(faces) | {
        "face_box": [face.box for face in faces],
        "face_response": [face.score for face in faces],
    }
    for name, values in expected.items():
        given, missing = found[name][: len(faces)], found[name][len(faces) :]
        values, atol = np.reshape(values, given.shape), (others or {}).get(name, tolerance)
        np.testing.assert_allclose(given, values, rtol=1e-3, atol=atol, err_msg=name)
        assert len(found[name]) == most
        assert np.isnan(missing).all() if missing.dtype.kind == "f" else (missing == -1).all()


def expected_of(faces):
    """What the analyzer says, in the shape of the export's outputs."""
    attributes = [face.tasks["attributes"].values() for face in faces]
    chosen = {name: [face.tasks[name] for face in faces] for name in ("pose", "range", "emotion")}
    classes = {}
    for name, of in chosen.items():
        classes[f"{name}_probability"] = [list(choice.probabilities.values()) for choice in of]
        classes[f"{name}_label"] = [list(c.probabilities).index(c.label) for c in of]
    return classes | {
        "range_value": [choice.value for choice in chosen["range"]],
        "attributes_probability": [[item.probability for item in row] for row in attributes],
        "attributes_label": [[int(item.label) for item in row] for row in attributes],
        "landmarks_points": [list(face.tasks["landmarks"].values()) for face in faces],
        "age_value": [list(face.tasks["age"].values()) for face in faces],
        "alignment_outline": [list(face.tasks["alignment"].outline.values()) for face in faces],
    }


def assert_described(exported, signatures):
    """The description of an export names the outputs for photographs as they are served."""
    description = read_description(exported)
    assert set(description["signatures"]) == set(signatures) - {"description"}
    for name in ("photos", "photo_pixels"):
        stated = description["signatures"][name]["outputs"]
        served = signatures[name].structured_outputs
        assert stated.keys() == served.keys()
        for key, tensor in stated.items():
            assert [None, *tensor["shape"][1:]] == served[key].shape.as_list()
            assert tensor["dtype"] == served[key].dtype.name
