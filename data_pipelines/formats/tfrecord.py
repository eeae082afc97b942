"""Serialised examples, and reading them out of TFRecord files without TensorFlow.

A TFRecord file is a chain of frames: length (8 bytes, little-endian), its checksum (4), the bytes
of a serialised `tf.train.Example`, their checksum (4). These checksums are not verified here;
`RecordFiles` compares those that records keep of their own.
"""

import mmap
import os
import struct
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from data_pipelines.errors import UserError

FRAMING = 16
"""Bytes of a TFRecord file for every record beside the record: its length and two checksums."""


class RecordFiles:
    """The serialised examples of TFRecord files, read in any order."""

    def __init__(
        self,
        shards: Sequence[str | os.PathLike],
        frames: Sequence[Sequence[tuple[int, int]]] | None = None,
    ):
        """Finds out where the examples lie, which are counted through all files.

        Args:
            shards: the files.
            frames: what `frame` gave of every example, file by file; None where it is not known:
                all files are walked through, and examples are not compared with their checksums.

        Raises:
            UserError: a file ends within a frame, or is not as long as its examples.
        """
        self._shards = shards
        found = list(map(_walk, shards) if frames is None else map(_places, shards, frames))
        self._file = np.repeat(np.arange(len(found)), list(map(len, found)))
        self._places = np.concatenate(found)

    def __len__(self) -> int:
        return len(self._places)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The examples at some positions, in this order: bytes, object `[B]`.

        Raises:
            ValueError: a file is gone, or does not hold what it did when it was built.
        """
        examples, files = np.empty(len(rows), object), self._file[rows]
        places = self._places[rows].tolist()
        for index in np.unique(files):
            try:
                with open(self._shards[index], "rb", buffering=0) as file:
                    for place in np.flatnonzero(files == index):
                        begin, length, checksum = places[place]
                        examples[place] = os.pread(file.fileno(), length, begin)
                        if len(examples[place]) < length or (
                            checksum >= 0 and zlib.crc32(examples[place]) != checksum
                        ):
                            raise ValueError(f"{self._shards[index]}: not as it was built")
            except OSError as error:
                raise ValueError(f"{self._shards[index]}: {error.strerror}") from error
        return examples


def frame(example: bytes) -> tuple[int, int]:
    """What records keep of every example: how many bytes it has, and their CRC-32."""
    return len(example), zlib.crc32(example)


def _places(shard, frames: Sequence[tuple[int, int]]) -> np.ndarray:
    """Begin, length and checksum of every example, int64 `[N, 3]`, of a file that is not read."""
    lengths, checksums = np.array(frames, np.int64).reshape(-1, 2).T
    ends = np.cumsum(lengths + FRAMING)
    if os.stat(shard).st_size != (ends[-1] if len(ends) else 0):
        raise UserError(f"{shard}: not a whole file of records; build the records again")
    return np.stack([ends - lengths - 4, lengths, checksums], axis=1)


def _walk(shard) -> np.ndarray:
    """Begin, length and -1 for the checksum of every example, int64 `[N, 3]`."""
    begin, places = 12, []
    with open(shard, "rb") as file:
        if size := os.fstat(file.fileno()).st_size:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as frames:
                while begin <= size:
                    (length,) = struct.unpack_from("<Q", frames, begin - 12)
                    places.append((begin, length, -1))
                    begin += length + FRAMING
    if begin != size + 12:
        raise UserError(f"{shard}: not a whole file of records; build the records again")
    return np.array(places, np.int64).reshape(-1, 3)


def read_examples(
    shards: Sequence[str | os.PathLike], positions: Collection[int]
) -> Iterator[tuple[int, dict[str, np.ndarray | list[bytes]]]]:
    """The examples at some positions, counted from 0 through all shards, in stored order.

    Yields:
        The position and the features by name: float32 or int64 `[n]`, or a list of bytes.
    """
    wanted, position = set(positions), 0
    for shard in shards:
        with open(shard, "rb") as file:
            while header := file.read(12):
                (length,) = struct.unpack("<Q", header[:8])
                if position in wanted:
                    yield position, parse_example(file.read(length))
                    file.seek(4, os.SEEK_CUR)
                else:
                    file.seek(length + 4, os.SEEK_CUR)
                position += 1


def serialise_example(features: Mapping[str, bytes | np.ndarray]) -> bytes:
    """A serialised `tf.train.Example`, the same bytes in every process.

    Args:
        features: name -> bytes, or floats or integers of any shape, which are stored flat.
    """
    import tensorflow as tf

    example = tf.train.Example()
    for name, value in features.items():
        feature = example.features.feature[name]
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
            continue
        kind = feature.float_list if np.asarray(value).dtype.kind == "f" else feature.int64_list
        kind.value.extend(np.ravel(value).tolist())
    # The fields are sorted; protobuf's own order differs between processes.
    return example.SerializeToString(deterministic=True)


def parse_example(data: bytes) -> dict[str, np.ndarray | list[bytes]]:
    """The features of a serialised `tf.train.Example` by name."""
    example = {}
    for _, features in _fields(data):
        for _, entry in _fields(features):
            parts = dict(_fields(entry))
            example[parts[1].decode()] = _feature(parts.get(2, b""))
    return example


def _feature(data):
    for kind, values in _fields(data):
        if kind == 1:
            return [value for _, value in _fields(values)]
        # Numbers are packed into one field, or stand one by one.
        packed = [value for _, value in _fields(values)]
        if kind == 2:
            return np.frombuffer(b"".join(packed), "<f4")
        numbers = []
        for value in packed:
            numbers += [value] if isinstance(value, int) else _varints(value)
        return np.array(numbers, np.uint64).astype(np.int64)
    return []


def _fields(data):
    """Number and value of each field of a message: bytes, or an int where it is a varint."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, place = _varint(data, place)
            yield number, value
            continue
        length, place = _varint(data, place) if kind == 2 else ({1: 8, 5: 4}[kind], place)
        yield number, data[place : place + length]
        place += length


def _varints(data):
    numbers, place = [], 0
    while place < len(data):
        number, place = _varint(data, place)
        numbers.append(number)
    return numbers


def _varint(data, place):
    number = shift = 0
    while True:
        byte = data[place]
        place += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return number, place
