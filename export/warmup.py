"""Requests that a model server replays before a version answers: its first user waits no longer.

Source: TensorFlow Serving, "SavedModel Warmup": a TFRecord file of `PredictionLog` messages, at
most 1,000, at `assets.extra/tf_serving_warmup_requests`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.errors import UserError
from export.drawn_requests import draw_requests

FILE = "tf_serving_warmup_requests"
MOST_REQUESTS = 1000


def write_warmup(folder: Path, name: str, signatures: Sequence[str], sizes: Sequence[int]) -> None:
    """Writes requests with drawn faces for every signature and batch size.

    Without TensorFlow Serving's messages none are written, and one line says so.

    Args:
        folder: `assets.extra` of a version.
        name: the name of the model.
        signatures: the signatures of the model.
        sizes: images in a request.

    Raises:
        UserError: there would be too many requests.
    """
    if len(signatures) * len(sizes) > MOST_REQUESTS:
        raise UserError(f"{len(sizes)} batch sizes: a server replays {MOST_REQUESTS} requests only")
    import tensorflow as tf

    try:
        from tensorflow_serving.apis.predict_pb2 import PredictRequest
        from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
    except ImportError:
        print(
            "no warm-up requests were written: they need TensorFlow Serving's messages, "
            "pip install 'faceattr_tf[serving]'",
            file=sys.stderr,
        )
        return
    with tf.io.TFRecordWriter(str(folder / FILE)) as records:
        for size in sizes:
            faces = draw_requests(size)
            for signature in signatures:
                request = PredictRequest()
                request.model_spec.name = name
                request.model_spec.signature_name = signature
                for key, value in faces.inputs(signature).items():
                    request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
                log = PredictionLog()
                log.predict_log.request.CopyFrom(request)
                records.write(log.SerializeToString())
