"""A test double of TensorFlow Serving: its gRPC services over an exported model.

It implements the official servicers of tensorflow-serving-api for tests of the client and of the
protocol. Models are loaded and run in sessions, as by the server itself. It is no server to be used:
one process, Python between the network and the session, no batching.
"""

import concurrent.futures
import gc
import http.server
import json
import pathlib
import threading
import time

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

AVAILABLE = get_model_status_pb2.ModelVersionStatus.State.AVAILABLE
LIMIT = 256 * 2**20


class Loaded:
    """A SavedModel in a session of its own, which ends when nothing asks it any more."""

    def __init__(self, folder):
        graph = tf.Graph()
        self.session = tf.compat.v1.Session(graph=graph)
        with graph.as_default():
            described = tf.compat.v1.saved_model.load(self.session, ["serve"], str(folder))
        self.signatures = {
            name: signature
            for name, signature in described.signature_def.items()
            if not name.startswith("__")
        }
        self.functions = {
            name: self.session.make_callable(
                {key: output.name for key, output in signature.outputs.items()},
                feed_list=[signature.inputs[key].name for key in sorted(signature.inputs)],
            )
            for name, signature in self.signatures.items()
        }

    def dtype(self, signature, name):
        """NumPy's type of an input; TypeError where the signature has none of that name."""
        if name not in self.signatures[signature].inputs:
            raise TypeError(f"signature {signature} has no input {name}")
        return tf.as_dtype(self.signatures[signature].inputs[name].dtype).as_numpy_dtype

    def answer(self, signature, inputs):
        """Output -> array, from input -> array."""
        expected = sorted(self.signatures[signature].inputs)
        if sorted(inputs) != expected:
            raise TypeError(f"signature {signature}: expected {expected}, got {sorted(inputs)}")
        return self.functions[signature](*(inputs[key] for key in expected))

    def __del__(self):
        self.session.close()


class Versions:
    """The loaded versions of one model, replaced as a whole while requests run."""

    def __init__(self, folder, name):
        self.folder, self.name = pathlib.Path(folder), name
        self.loaded_and_labels = (
            {},
            {},
        )  # Replaced together, so that requests find what goes together.
        self.lock = threading.Lock()

    def serve(self, labels: dict[str, int]):
        """Labels first, then loading, then letting go of what is old, as `ServerCore` does it.

        A label that is new may stand for a version that is not loaded yet, others may not move to
        one (`--allow_version_labels_for_unavailable_models`).
        """
        with self.lock:
            loaded, before = self.loaded_and_labels
            for label, version in labels.items():
                if before.get(label, version) != version and version not in loaded:
                    raise ValueError(
                        f"Request to assign label to version {version} of model {self.name}, which "
                        "is not currently available for inference"
                    )
            self.loaded_and_labels = loaded, dict(labels)
            kept = {
                version: loaded.get(version) or Loaded(self.folder / self.name / str(version))
                for version in sorted(set(labels.values()))
            }
            self.loaded_and_labels = kept, dict(labels)
            del loaded  # so that what is old is collected below
        gc.collect()  # a graph in Python is a cycle, which else stays for dozens of switches

    def find(self, spec, context):
        """Version and model that a request asks for."""
        loaded, labels = self.loaded_and_labels
        if spec.name != self.name:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {spec.name}")
        if spec.HasField("version"):
            version = spec.version.value
        elif spec.version_label:
            version = labels.get(spec.version_label)
        else:
            version = max(loaded)
        if version not in loaded:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no version {spec.version_label or version}")
        return version, loaded[version]


class Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata."""

    def __init__(self, versions):
        self.versions, self.delay, self.unavailable = versions, 0.0, 0
        self.requests = 0

    def Predict(self, request, context):
        self.requests += 1
        if self.unavailable:
            self.unavailable -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
        time.sleep(self.delay)
        version, model = self.versions.find(request.model_spec, context)
        name = request.model_spec.signature_name or "serving_default"
        if name not in model.signatures:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"Serving signature {name} not found")
        try:
            inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
            outputs = model.answer(name, inputs)
        except (tf.errors.InvalidArgumentError, TypeError, ValueError) as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error)[:500])
        response = predict_pb2.PredictResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = version
        response.model_spec.signature_name = name
        for key, value in outputs.items():
            response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
        return response

    def GetModelMetadata(self, request, context):
        version, model = self.versions.find(request.model_spec, context)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = version
        found = get_model_metadata_pb2.SignatureDefMap()
        for name in model.signatures:
            found.signature_def[name].method_name = "tensorflow/serving/predict"
        response.metadata["signature_def"].Pack(found)
        return response


class Model(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus, and a switch of versions by HandleReloadConfigRequest."""

    def __init__(self, versions):
        self.versions = versions

    def GetModelStatus(self, request, context):
        self.versions.find(request.model_spec, context)
        response = get_model_status_pb2.GetModelStatusResponse()
        for version in sorted(self.versions.loaded_and_labels[0]):
            response.model_version_status.add(version=version, state=AVAILABLE)
        return response

    def HandleReloadConfigRequest(self, request, context):
        from tensorflow_serving.apis.model_management_pb2 import ReloadConfigResponse

        (model,) = request.config.model_config_list.config
        assert set(model.model_version_policy.specific.versions) == set(
            model.version_labels.values()
        )
        try:
            self.versions.serve(dict(model.version_labels))
        except ValueError as error:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        return ReloadConfigResponse()


def start(folder, name, labels, credentials=None):
    """A running server, its port, and the servicer that tests may disturb."""
    versions = Versions(folder, name)
    versions.serve(labels)
    options = [("grpc.max_receive_message_length", LIMIT), ("grpc.max_send_message_length", LIMIT)]
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(8), options=options)
    prediction = Prediction(versions)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(prediction, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Model(versions), server)
    if credentials:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port, prediction


def rest_answer(versions, path: str, body: bytes) -> tuple[int, dict]:
    """What the REST interface answers: the same model behind TensorFlow Serving's JSON."""
    import base64

    pieces, _, verb = path.strip("/").partition(":")
    _, _, name, *place = pieces.split("/")
    if verb != "predict" or name != versions.name:
        return 404, {"error": f"Servable not found for request: Latest({name})"}
    kind, wanted = place or ("", "")
    loaded, labels = versions.loaded_and_labels
    version = {"": max(loaded), "labels": labels.get(wanted)}.get(kind, wanted)
    if int(version or 0) not in loaded:
        return 404, {"error": f"Servable not found for request: Specific({name}, {wanted})"}
    request = json.loads(body)
    model, signature = loaded[int(version)], request.get("signature_name")
    signature = signature or "serving_default"
    if signature not in model.signatures:
        return 400, {"error": f"Serving signature name: {signature!r} not found"}
    rows = request["instances"]
    inputs = {}
    for key in rows[0]:
        values = [row[key] for row in rows]
        if isinstance(values[0], dict):
            inputs[key] = np.array([base64.b64decode(value["b64"]) for value in values], object)
        else:
            inputs[key] = np.array(values, model.dtype(signature, key))
    outputs = model.answer(signature, inputs)
    predictions = [
        {key: _plain(value[index]) for key, value in outputs.items()} for index in range(len(rows))
    ]
    return 200, {"predictions": predictions}


def _plain(value):
    return value.decode() if isinstance(value, bytes) else np.asarray(value).tolist()


def start_rest(versions, context=None):
    """A running REST server and its port; `server.answers` are given before any real one."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.server.answers:
                status, found = self.server.answers.pop()
            else:
                status, found = rest_answer(versions, self.path, body)
            data = found if isinstance(found, bytes) else json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.answers = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, server.server_address[1]
