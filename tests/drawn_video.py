"""Videos of squares that stand for faces, and a detector that finds them."""

import cv2
import numpy as np

from data_pipelines.detection.mtcnn import Detection

SIZE = 96, 160  # height, width
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def face_of(box, score: float = 0.95) -> Detection:
    """A face in a box: left, top, width, height."""
    box = np.array(box, np.float32)
    shares = np.array([(0.3, 0.35), (0.7, 0.35), (0.5, 0.55), (0.35, 0.75), (0.65, 0.75)])
    return Detection(box, score, (box[:2] + shares * box[2:]).astype(np.float32))


def draw(places, size=SIZE) -> np.ndarray:
    """Squares of 30 pixels, each in a colour of its own, with their left upper corner at `places`."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    pixels = np.stack([rows + 40, columns // 2 + 20, rows + columns // 4], axis=-1)
    pixels = pixels.clip(0, 199).astype(np.uint8)
    for place, colour in zip(places, COLOURS, strict=False):
        if place is not None:
            left, top = place
            cv2.rectangle(pixels, (left, top), (left + 29, top + 29), colour, -1)
            cv2.rectangle(pixels, (left + 8, top + 8), (left + 12, top + 12), (128, 128, 128), -1)
    return pixels


class SquareDetector:
    """Finds the squares of `draw`, as `Detector` finds faces."""

    def __init__(self, *_, **__):
        """Takes what `Detector` takes."""

    def __call__(self, images):
        """The squares of every picture."""
        return [[face_of(box) for box in self._boxes(image)] for image in images]

    def _boxes(self, pixels):
        for colour in COLOURS:
            like = (np.abs(pixels.astype(int) - colour).max(axis=-1) < 40).astype(np.uint8)
            _, _, stats, _ = cv2.connectedComponentsWithStats(like)
            yield from (row[:4] for row in stats[1:] if row[4] > 200)


def write_video(file, frames, codec: str = "FFV1", rate: float = 10.0) -> str:
    """A video of RGB frames; its path."""
    frames = list(frames)
    size = frames[0].shape[1::-1] if frames else SIZE[::-1]
    letters = cv2.VideoWriter_fourcc(*codec)
    video = cv2.VideoWriter(str(file), cv2.CAP_FFMPEG, letters, rate, size)
    for frame in frames:
        video.write(np.ascontiguousarray(frame[..., ::-1]))
    video.release()
    return str(file)


def read_video(file) -> np.ndarray:
    """All frames of a video, RGB."""
    video, frames = cv2.VideoCapture(str(file), cv2.CAP_FFMPEG), []
    while (one := video.read())[0]:
        frames.append(one[1][..., ::-1])
    return np.stack(frames)
