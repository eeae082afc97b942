"""A client of TensorFlow Serving: files in, answers out, over gRPC or REST.

    from export import Client

    with Client("127.0.0.1:8500") as client:
        for answer in client.predict(["photo.jpg"]):
            print(answer.name, answer.outputs)

Files travel as they are (gRPC) or in base64 (REST), never as lists of pixels: the signature
`pixels` is gRPC's alone. Turned photographs and what the exported graph does not read (WebP, GIF,
BMP, TIFF) are encoded anew, see `data_pipelines.formats.encoded`.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data_pipelines.crop.framing import check_tells_faces_apart
from data_pipelines.crop.geometry import Crop
from data_pipelines.detection.mtcnn import Detection
from data_pipelines.errors import UserError
from data_pipelines.files import local
from data_pipelines.formats.encoded import MAX_PIXELS, decode, read_header, upright
from export.description import NO_IMAGE
from export.transports import PROTOCOLS, Refused, Unavailable

LONGEST_PAUSE = 5.0
"""Seconds between two attempts at most."""

BATCH_BYTES = 16 * 2**20
"""Of files in a request, unless a single one is larger."""

LOSSY = ("JPEG", "MPO", "WEBP", "HEIF", "AVIF")
"""Formats from which a copy is a JPEG of high quality; of others it is a PNG."""

_ENCODING = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Answer:
    """What became of one image.

    Attributes:
        name: name of the file, or its place in what was given.
        outputs: name -> array without the batch dimension; empty where there is an error.
        error: why there is no answer; empty where there is one.
        box: left, top, width and height in pixels of the face that was asked about; empty where
            none was looked for.
    """

    name: str
    outputs: dict[str, np.ndarray]
    error: str = ""
    box: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Question:
    """An image that is asked about: a file or bytes, and the face in it that is meant."""

    name: str
    image: object = b""
    face: Detection | None = None
    error: str = ""  # why it cannot be asked about


class Client:
    """Asks one model of a server.

    Args:
        address: `host:port` of gRPC (8500 by default in servers), or of REST (8501).
        model: name of the model.
        protocol: one of `PROTOCOLS`.
        version: the version of the model; None for what the server takes by default.
        label: in place of a version: `stable`, `canary`.
        batch_size: images in a request, fewer where these are more than `BATCH_BYTES`.
        concurrency: requests that are under way at a time.
        deadline: seconds that a request may take, all attempts together.
        retries: further attempts where the server is unavailable, after pauses that double and
            vary at random; no other failure is tried again.
        tls: whether the connection is encrypted.
        certificate: file with the certificate (PEM) that the server's is signed by; empty for the
            usual authorities.
    """

    def __init__(
        self,
        address: str,
        model: str = "faceattr",
        *,
        protocol: str = "grpc",
        version: int | None = None,
        label: str = "",
        batch_size: int = 8,
        concurrency: int = 4,
        deadline: float = 30.0,
        retries: int = 3,
        tls: bool = False,
        certificate: str = "",
    ):
        """Connects when it is first used.

        Raises:
            UserError: an argument makes no sense, or a package is missing.
        """
        if protocol not in PROTOCOLS:
            raise UserError(f"protocol {protocol!r} is none of {', '.join(PROTOCOLS)}")
        if version is not None and label:
            raise UserError(f"version {version} and label {label!r}: expected one of them")
        for name, value, least in (
            ("batch size", batch_size, 1),
            ("concurrency", concurrency, 1),
            ("deadline", deadline, 1e-3),
            ("retries", retries, 0),
        ):
            if value < least:
                raise UserError(f"{name} {value}: expected at least {least:g}")
        certificate = str(local(certificate)) if certificate else ""
        if not re.fullmatch(r"[^/\s]+:\d{1,5}", address):
            raise UserError(
                f"server {address!r}: expected HOST:PORT, as in 127.0.0.1:8500, and nothing before "
                "or behind it"
            )
        if certificate and not os.path.isfile(certificate):
            raise UserError(f"{certificate}: no such certificate")
        self.batch_size, self.concurrency = batch_size, concurrency
        self.deadline, self.retries = deadline, retries
        self._transport = PROTOCOLS[protocol](address, model, version, label, tls, certificate)

    def __enter__(self):
        """Returns the client, which is closed at the end of the block."""
        return self

    def __exit__(self, *_):
        """Closes the connection."""
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._transport.close()

    def call(self, signature: str, inputs: dict) -> dict[str, np.ndarray]:
        """One request.

        Args:
            signature: the signature of the model.
            inputs: name -> array, or list of bytes; the same number of rows in each.

        Returns:
            Output name -> array with as many rows.

        Raises:
            Unavailable: no attempt found a server that answers.
            Refused: the server refused, or the deadline passed.
        """
        end = time.monotonic() + self.deadline
        for attempt in range(self.retries + 1):
            left = end - time.monotonic()
            if left <= 0:
                raise Refused(f"no answer within {self.deadline:g} s")
            try:
                return self._transport.call(signature, inputs, left)
            except Unavailable:
                pause = min(LONGEST_PAUSE, 0.1 * 2**attempt) * random.uniform(0.5, 1.5)
                if attempt == self.retries or time.monotonic() + pause >= end:
                    raise
                time.sleep(pause)
        raise AssertionError("the loop ends by return or raise")

    def description(self) -> dict | None:
        """What the version that answers says of itself: its `faceattr.json`.

        Returns:
            None where it was exported before it could say so.

        Raises:
            Unavailable, Refused: as of `call`.
        """
        try:
            (values,) = self.call("description", {"question": [b""]}).values()
        except Refused as error:
            if "description" in str(error):  # servers name a signature that is not there
                return None
            raise
        return json.loads(values[0])

    def predict(
        self,
        images: Iterable[str | Path | bytes],
        *,
        signature: str = "serving_default",
        detector: Callable | None = None,
        max_pixels: int | None = None,
    ) -> Iterator[Answer]:
        """The answers for images, in their order, several requests at a time.

        What goes wrong with one request or image is its own answer's `error`.

        Args:
            images: files, or the bytes of files.
            signature: one that takes `image_bytes` alone, or with a detector `crop`.
            detector: finds faces, here and not on the server, as
                `data_pipelines.detection.mtcnn.Detector` does: every face of an image is asked
                about by its box and landmarks, the one nearest to the centre first, and has an
                answer of its own.
            max_pixels: that of the model's description, where it is known: what is larger by its
                header, or no image of a format that is read, is not sent, and its answer says why.

        Raises:
            UserError: with a detector, the model saw whole pictures and cannot tell their faces
                apart.
        """
        batches = _batches(images, self.batch_size)
        if detector:
            self._check_tells_faces_apart()
            batches = (
                part for batch in batches for part in self._faces(batch, detector, max_pixels)
            )
        with concurrent.futures.ThreadPoolExecutor(self.concurrency) as pool:
            under_way = collections.deque()
            for batch in batches:
                under_way.append(pool.submit(self._answer, signature, batch, max_pixels))
                if len(under_way) > self.concurrency:
                    yield from under_way.popleft().result()
            while under_way:
                yield from under_way.popleft().result()

    def _check_tells_faces_apart(self) -> None:
        with contextlib.suppress(Unavailable, Refused):  # every image will say so
            description = self.description()
            if description:
                # An export of an earlier version says nothing of the framing.
                framing = description.get("framing")
                check_tells_faces_apart(Crop.from_dict(description["crop"]), framing)

    def _faces(
        self, batch: Sequence[_Question], detector: Callable, max_pixels: int | None
    ) -> Iterator[list[_Question]]:
        """The same, one question for every face of an image, as many at a time as before."""
        asked, pixels = [], []
        for question in batch:
            try:
                # What the detector sees is what the server is sent, and turned upright.
                data = as_sent(_read(question.image))
                pixels.append(decode(data, max_pixels or MAX_PIXELS))
                asked.append(dataclasses.replace(question, image=data))
            except (OSError, UserError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                asked.append(_Question(question.name, error=reason))
        found = iter(detector(pixels))
        faces = []
        for question in asked:
            own = [] if question.error else next(found)
            faces += [dataclasses.replace(question, face=face) for face in own]
            if not own:
                faces.append(_Question(question.name, error=question.error or "no face was found"))
        for start in range(0, len(faces), self.batch_size):
            yield faces[start : start + self.batch_size]

    def _answer(
        self, signature: str, batch: Sequence[_Question], max_pixels: int | None
    ) -> list[Answer]:
        answers, sent, contents = {}, [], []
        for index, question in enumerate(batch):
            if question.error:
                answers[index] = Answer(question.name, {}, question.error)
                continue
            try:
                data = _read(question.image)
                if max_pixels:
                    read_header(data, max_pixels)
                contents.append(as_sent(data))
                sent.append((index, question))
            except (OSError, UserError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                answers[index] = Answer(question.name, {}, reason)
        inputs = {"image_bytes": contents}
        if sent and sent[0][1].face:
            inputs["box"] = np.stack([question.face.box for _, question in sent])
            inputs["landmarks"] = np.stack([question.face.landmarks for _, question in sent])
        try:
            outputs = self.call(signature, inputs) if sent else {}
        except (Unavailable, Refused) as error:
            answers |= {index: Answer(one.name, {}, str(error)) for index, one in sent}
            return [answers[index] for index in sorted(answers)]
        for row, (index, question) in enumerate(sent):
            own = {key: values[row] for key, values in outputs.items()}
            box = tuple(question.face.box.tolist()) if question.face else ()
            if own.pop("valid", True):
                answers[index] = Answer(question.name, own, box=box)
            else:
                answers[index] = Answer(question.name, {}, NO_IMAGE)
        return [answers[index] for index in sorted(answers)]


def as_sent(data: bytes) -> bytes:
    """The bytes of a file as a server decodes them as we would; damaged ones as they are.

    Of large photographs one at a time is encoded anew.
    """
    try:
        header = read_header(data)
        if header.plain:
            return data
        with _ENCODING:
            return upright(data, lossy=header.format in LOSSY)
    except UserError:  # The server says what is wrong with it.
        return data


def _read(image) -> bytes:
    return image if isinstance(image, bytes) else local(image).read_bytes()


def _batches(images: Iterable, size: int) -> Iterator[list[_Question]]:
    """The images of each request: so many at most, and not too many bytes."""
    batch, total = [], 0
    for number, image in enumerate(images):
        name = f"image {number}" if isinstance(image, bytes) else str(image)
        bytes_ = len(image) if isinstance(image, bytes) else _size(image)
        if batch and (len(batch) == size or total + bytes_ > BATCH_BYTES):
            yield batch
            batch, total = [], 0
        batch.append(_Question(name, image))
        total += bytes_
    if batch:
        yield batch


def _size(file) -> int:
    try:
        return os.path.getsize(file)
    except OSError:  # Reading it says what is wrong.
        return 0
