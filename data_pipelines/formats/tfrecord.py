"""Reads single examples out of TFRecord files without TensorFlow, which takes seconds to import.

A TFRecord file is a chain of frames: length (8 bytes, little-endian), its checksum (4), the bytes
of a serialised `tf.train.Example`, their checksum (4). The checksums are not verified here.
"""

import os
import struct
from collections.abc import Collection, Iterator, Sequence

import numpy as np


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
