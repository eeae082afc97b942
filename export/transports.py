"""How requests reach TensorFlow Serving: by gRPC, or by REST."""

import base64
import json
from pathlib import Path

import numpy as np

from data_pipelines.errors import UserError

_MESSAGE_BYTES = 256 * 2**20


class Unavailable(Exception):
    """The server cannot be reached, or asks to be left alone for a while."""


class Refused(Exception):
    """The server does not answer this request, and will not when it is asked again."""


class Grpc:
    """`PredictionService.Predict`."""

    def __init__(self, address, model, version, label, tls, certificate):
        try:
            import grpc
            from tensorflow_serving.apis.predict_pb2 import PredictRequest
            from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub
        except ImportError:
            raise UserError("gRPC needs pip install 'faceattr_tf[serving]'; or use REST") from None
        self.grpc, self.request_type = grpc, PredictRequest
        self.model, self.version, self.label = model, version, label
        options = [
            ("grpc.max_receive_message_length", _MESSAGE_BYTES),
            ("grpc.max_send_message_length", _MESSAGE_BYTES),
        ]
        if tls or certificate:
            authority = Path(certificate).read_bytes() if certificate else None
            credentials = grpc.ssl_channel_credentials(authority)
            self.channel = grpc.secure_channel(address, credentials, options)
        else:
            self.channel = grpc.insecure_channel(address, options)
        self.stub = PredictionServiceStub(self.channel)

    def call(self, signature, inputs, seconds):
        """Output name -> array, as of `Client.call`, within so many seconds."""
        import tensorflow as tf

        request = self.request_type()
        request.model_spec.name = self.model
        request.model_spec.signature_name = signature
        if self.version is not None:
            request.model_spec.version.value = self.version
        if self.label:
            request.model_spec.version_label = self.label
        for name, values in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
        try:
            response = self.stub.Predict(request, timeout=seconds)
        except self.grpc.RpcError as error:
            code, details = error.code(), error.details()
            if code == self.grpc.StatusCode.UNAVAILABLE:
                raise Unavailable(details) from None
            raise Refused(f"{code.name.lower().replace('_', ' ')}: {details}") from None
        return {name: tf.make_ndarray(value) for name, value in response.outputs.items()}

    def close(self):
        """Ends the connection."""
        self.channel.close()


class Rest:
    """`POST /v1/models/NAME:predict` with a list of instances."""

    def __init__(self, address, model, version, label, tls, certificate):
        try:
            import requests
        except ImportError:
            raise UserError("REST needs pip install 'faceattr_tf[serving]'") from None
        self.requests = requests
        self.session = requests.Session()
        self.session.headers["Content-Type"] = "application/json"
        self.session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=64))
        self.session.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=64))
        # Said with each request: a session's own setting gives way to REQUESTS_CA_BUNDLE.
        self.verify = certificate or None
        place = f"/versions/{version}" if version is not None else f"/labels/{label}"
        place = place if version is not None or label else ""
        scheme = "https" if tls or certificate else "http"
        self.url = f"{scheme}://{address}/v1/models/{model}{place}:predict"

    def call(self, signature, inputs, seconds):
        """The same; arrays travel as lists of numbers, files in base64."""
        columns = []
        for name, values in inputs.items():
            if isinstance(values, list):
                columns.append([{"b64": base64.b64encode(v).decode()} for v in values])
            elif np.asarray(values).dtype == np.uint8:
                raise Refused(f"{name}: pixels do not travel over REST; send files, or use gRPC")
            else:
                columns.append(np.asarray(values).tolist())
        instances = [dict(zip(inputs, row, strict=True)) for row in zip(*columns, strict=True)]
        # The server reads and writes NaN, which requests' own JSON refuses.
        body = json.dumps({"signature_name": signature, "instances": instances})
        try:
            response = self.session.post(self.url, body, timeout=seconds, verify=self.verify)
        except self.requests.Timeout:
            raise Refused(f"no answer within {seconds:.3g} s") from None
        except self.requests.exceptions.SSLError as error:
            cause = getattr(error.args[0], "reason", error)
            raise Refused(f"{self.url}: no encryption to be trusted: {cause}") from None
        except self.requests.RequestException as error:
            raise Unavailable(f"{self.url}: {type(error).__name__}") from None
        if response.status_code == 503:
            raise Unavailable(_message(response))
        if response.status_code != 200:
            raise Refused(f"status {response.status_code}: {_message(response)}")
        try:
            rows = response.json()["predictions"]
            # Where a signature has one output, its rows are not named.
            rows = [row if isinstance(row, dict) else {"output": row} for row in rows]
            if len(rows) != len(instances):
                raise ValueError
            return {name: np.array([row[name] for row in rows]) for name in rows[0]}
        except (ValueError, KeyError, TypeError, IndexError):
            raise Refused(
                f"{self.url}: no answer of TensorFlow Serving but {response.text[:80]!r}"
            ) from None

    def close(self):
        """Ends the connection."""
        self.session.close()


def _message(response) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200].strip() or "no message"


PROTOCOLS = {"grpc": Grpc, "rest": Rest}
"""What carries requests, by the name that a client is given."""
