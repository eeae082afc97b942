"""Faces followed through the frames of a video.

A track is one face in a stretch of frames without a cut. Where it is expected follows from where it
was and how fast it moved; a found face may go on with it by the overlap of the boxes, the distance
of the landmarks and the likeness of the pixels. All pairs are judged together (the assignment of
least cost). Where it is unclear, a track ends and another begins: one face may so get two numbers,
while two faces under one number would mix what is said of them.

As in ByteTrack (Zhang et al., ECCV 2022), surely found faces are assigned first, and only then do
less certain ones go on with tracks that are left; they begin none.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipelines.detection.mtcnn import Detection

PATIENCE = 15
"""Frames without its face that a track survives."""

CERTAIN = 0.8
"""Score from which on a face begins a track, unless told otherwise."""

_REMEMBERED = 3  # times `PATIENCE` frames, what is known of a track
_MINIMUM_OVERLAP = 0.2  # IoU with the expected box
_MAXIMUM_DISTANCE = 0.5  # of the landmarks from the expected ones, on average, in sides of the box
_MAXIMUM_COST = 0.9
_IMPOSSIBLE = 10.0
_SECOND_BEST = 0.1  # a rival this close in cost makes it unclear whose face is whose
_LARGEST_CHANGE = 1.6  # of a box's side between two frames in which it is found
_SAME = 0.4  # IoU of two boxes that are one face
_STEADY = 0.7  # of a velocity, when another distance is added to it
_SIDE = 16  # pixels of a face's portrait
_KEPT = 0.8  # of a portrait, when a further face is added to it
_MINIMUM_LIKENESS = 0.5  # correlation with the portrait: below it, another face stands there
_CUT = 0.1  # of the range of grey, mean difference of two frames of equal brightness


@dataclasses.dataclass(eq=False)
class Track:
    """One face in a stretch of frames.

    Attributes:
        number: from 1 on, in the order in which they begin.
        frames: in which frames the face was found, those of long ago left out.
        boxes: where: left, top, width, height `[4]` in each of these.
        landmarks: `[5, 2]` in the last of them.
        velocity: pixels per frame `[2]` of the box's centre.
        portrait: what the face looks like, `[n]`, of mean 0 and length 1.
        found: in how many frames it was found at all.
        ended: whether it goes on no more.
    """

    number: int
    frames: list[int]
    boxes: list[np.ndarray]
    landmarks: np.ndarray
    velocity: np.ndarray
    portrait: np.ndarray
    found: int = 1
    ended: bool = False

    def box(self, frame: int, reach: int) -> np.ndarray | None:
        """Where the face is in a frame that was processed already, or may be.

        Between two frames in which it was found the box is interpolated. For `reach` frames before
        the first and after the last one it is one that covers both where it was and where it would
        be at its velocity. None beyond these.
        """
        place = int(np.searchsorted(self.frames, frame))
        if place < len(self.frames) and self.frames[place] == frame:
            return self.boxes[place]
        if 0 < place < len(self.frames):
            before, after = self.frames[place - 1], self.frames[place]
            share = (frame - before) / (after - before)
            return (1 - share) * self.boxes[place - 1] + share * self.boxes[place]
        nearest = 0 if place == 0 else -1
        distance = frame - self.frames[nearest]
        if abs(distance) > reach:
            return None
        box = self.boxes[nearest]
        moved = box[:2] + self.velocity * distance
        begin = np.minimum(box[:2], moved)
        return np.concatenate([begin, np.maximum(box[:2], moved) + box[2:] - begin])

    def found_around(self, frame: int) -> bool:
        """Whether the face was found in this frame, or both before and after it."""
        return self.frames[0] <= frame <= self.frames[-1]


class Tracker:
    """Gives the faces of frames after frames the numbers of tracks.

    Attributes:
        tracks: those that go on, and those that ended not long ago.
    """

    def __init__(self, certain: float = CERTAIN, patience: int = PATIENCE):
        """Begins without a track.

        Args:
            certain: score from which on a face begins a track.
            patience: frames without its face that a track survives; where its face was is
                remembered for three times as many.
        """
        self.tracks: list[Track] = []
        self._certain, self._patience = certain, patience
        self._frame, self._begun, self._grey = -1, 0, None

    def __call__(self, pixels: np.ndarray, faces: Sequence[Detection]) -> list[Track | None]:
        """The track of each face of the next frame; None of a face that is too uncertain for one.

        Args:
            pixels: uint8 RGB `[H, W, 3]`.
            faces: what was found in it.
        """
        self._frame += 1
        self._end_old_tracks(self._is_cut(pixels))
        portraits = [_portrait(pixels, face) for face in faces]
        assigned: list[Track | None] = [None] * len(faces)
        single = [i for i in range(len(faces)) if not _repeats(i, faces)]
        certain = [i for i in single if faces[i].score >= self._certain]
        uncertain = [i for i in single if faces[i].score < self._certain]
        for part in (certain, uncertain):
            free = [track for track in self.tracks if not track.ended and track not in assigned]
            for index, track in self._assign(part, free, faces, portraits):
                assigned[index] = track
        for index, track in enumerate(assigned):
            if track is not None:
                self._go_on(track, faces[index], portraits[index])
        for index in certain:
            if assigned[index] is None:
                assigned[index] = self._begin(faces[index], portraits[index])
        return assigned

    def _is_cut(self, pixels: np.ndarray) -> bool:
        import cv2

        small = cv2.resize(pixels, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
        grey, before = small.mean(axis=2) / 255, self._grey
        self._grey = grey = grey - grey.mean()
        return before is not None and float(np.abs(grey - before).mean()) > _CUT

    def _end_old_tracks(self, cut: bool) -> None:
        kept = []
        for track in self.tracks:
            age = self._frame - track.frames[-1]
            track.ended |= cut or age > self._patience
            if age <= _REMEMBERED * self._patience:
                kept.append(track)
        self.tracks = kept

    def _assign(self, indices, tracks, faces, portraits) -> list[tuple[int, Track]]:
        """Pairs of a face's index and the track that goes on with it."""
        if not indices or not tracks:
            return []
        from scipy.optimize import linear_sum_assignment

        costs = np.array(
            [[self._cost(track, faces[i], portraits[i]) for track in tracks] for i in indices]
        )
        pairs = []
        for row, column in zip(*linear_sum_assignment(costs), strict=True):
            cost = costs[row, column]
            rivals = np.append(np.delete(costs[row], column), np.delete(costs[:, column], row))
            if cost <= _MAXIMUM_COST and (rivals > cost + _SECOND_BEST).all():
                pairs.append((indices[row], tracks[column]))
        return pairs

    def _cost(self, track: Track, face: Detection, portrait: np.ndarray) -> float:
        """0 for the same place and look, above `_MAXIMUM_COST` for what cannot be the same face."""
        gap = self._frame - track.frames[-1]
        shift = track.velocity * gap
        box = track.boxes[-1] + [*shift, 0, 0]
        side = np.sqrt(box[2:].prod())
        change = np.sqrt(face.box[2:].prod()) / side
        overlap = iou(box, face.box)
        distances = np.hypot(*(track.landmarks + shift - face.landmarks).T)
        distance = distances.mean() / side
        if overlap < _MINIMUM_OVERLAP or distance > _MAXIMUM_DISTANCE:
            return _IMPOSSIBLE
        if not 1 / _LARGEST_CHANGE < change < _LARGEST_CHANGE:
            return _IMPOSSIBLE
        likeness = float(track.portrait @ portrait)
        if likeness < _MINIMUM_LIKENESS:
            return _IMPOSSIBLE
        return (1 - overlap) / 2 + distance / 2 + (1 - likeness) / 2

    def _go_on(self, track: Track, face: Detection, portrait: np.ndarray) -> None:
        gap = self._frame - track.frames[-1]
        before = track.boxes[-1]
        moved = (face.box[:2] + face.box[2:] / 2 - before[:2] - before[2:] / 2) / gap
        steady = _STEADY if track.found > 1 else 0.0
        track.velocity = steady * track.velocity + (1 - steady) * moved
        track.frames.append(self._frame)
        track.boxes.append(face.box)
        track.landmarks = face.landmarks
        mixed = _KEPT * track.portrait + (1 - _KEPT) * portrait
        track.portrait = mixed / max(1e-6, float(np.linalg.norm(mixed)))
        track.found += 1
        while track.frames[1] < self._frame - _REMEMBERED * self._patience:
            del track.frames[0], track.boxes[0]

    def _begin(self, face: Detection, portrait: np.ndarray) -> Track:
        self._begun += 1
        still = np.zeros(2, np.float32)
        track = Track(self._begun, [self._frame], [face.box], face.landmarks, still, portrait)
        self.tracks.append(track)
        return track


def iou(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two boxes: left, top, width, height."""
    begin = np.maximum(first[:2], second[:2])
    end = np.minimum(first[:2] + first[2:], second[:2] + second[2:])
    common = float(np.clip(end - begin, 0, None).prod())
    return common / max(1e-6, float(first[2:].prod() + second[2:].prod()) - common)


def _repeats(index: int, faces: Sequence[Detection]) -> bool:
    """Whether a face was found a second time, with a higher score."""
    own = faces[index]
    return any(
        (face.score, -place) > (own.score, -index) and iou(own.box, face.box) > _SAME
        for place, face in enumerate(faces)
    )


def _portrait(pixels: np.ndarray, face: Detection) -> np.ndarray:
    """A small copy of the face in its colours, of mean 0 and length 1."""
    import cv2

    left, top, width, height = face.box
    scale = np.array([width, height]) / _SIDE
    transform = np.array([[scale[0], 0, left], [0, scale[1], top]], np.float32)
    # A blur of the part first, so that what is shrunk does not alias.
    step = max(1, int(min(scale)))
    size = (_SIDE * step, _SIDE * step)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    part = cv2.warpAffine(
        pixels, transform / [[step, step, 1]], size, flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    small = cv2.resize(part, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    small -= small.mean()
    return (small / max(1e-6, float(np.linalg.norm(small)))).ravel()
