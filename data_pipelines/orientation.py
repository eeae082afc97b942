"""Orientation tags of photographs (EXIF): read from the encoded bytes, applied when they matter.

OpenCV applies the tag, TensorFlow's decoders ignore it. The rule of this project is that it is
applied: readers do so once, at conversion, and Python-side prediction does so for every file.
"""

import struct

_ORIENTATION = 0x0112
_SHORT = 3


def orientation(data: bytes) -> int:
    """The orientation tag of an encoded image: 1 (upright, also where there is no tag) to 8.

    Only JPEG files are looked into; a tag that cannot be read counts as 1, as viewers take it.
    """
    if data[:2] != b"\xff\xd8":
        return 1
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, length = struct.unpack_from(">BH", data, position + 1)
        if marker == 0xDA:  # the picture itself starts: tags stand before it
            return 1
        if marker == 0xE1 and data[position + 4 : position + 10] == b"Exif\0\0":
            return _tag(data[position + 10 : position + 2 + length])
        position += 2 + length
    return 1


def _tag(exif: bytes) -> int:
    """The orientation in the first directory of a TIFF-structured EXIF block."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    try:
        (first,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, first)
        for index in range(entries):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, first + 2 + 12 * index)
            if tag == _ORIENTATION and kind == _SHORT:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def upright(data: bytes) -> bytes:
    """The encoded image with its orientation tag applied.

    Bytes of an upright image are returned as they are; others are decoded, turned, and encoded
    again as PNG, which loses nothing.
    """
    if orientation(data) == 1:
        return data
    import cv2
    import numpy as np

    turned = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return cv2.imencode(".png", turned)[1].tobytes()
