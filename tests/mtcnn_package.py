"""The `mtcnn` package as the reference: what the graph of `mtcnn_graph` has to find."""

import functools
import pathlib
from unittest import mock

import numpy as np

STEP = 0.709
FIELD = 12


def detect(image: np.ndarray, minimum_size: float = 20):
    """Boxes `[N, 4]` (left, top, right, bottom), scores `[N]`, landmarks `[N, 5, 2]` of a picture."""
    found = rows([image], minimum_size)
    landmarks = found[:, 6:16].reshape(len(found), 2, 5).swapaxes(1, 2) if len(found) else None
    return found[:, 1:5], found[:, 5], np.zeros((0, 5, 2)) if landmarks is None else landmarks


def rows(images: list[np.ndarray], minimum_size: float = 20, stable: bool = True) -> np.ndarray:
    """The package's own table of pictures of equal size: picture, box, score, landmarks.

    Of candidates for one face, the best one stays. Scores near 1 can be equal in float32, and the
    package then takes the candidate that NumPy's sort, which is not stable and another one on
    another processor, happens to put first. Where `stable` is asked for, the sort is stable.
    """
    with mock.patch("mtcnn.utils.bboxes.sort_by_scores", _sorted if stable else _sort_by_scores()):
        return network().detect_faces(
            [image.astype(np.float32) for image in images],
            min_face_size=minimum_size,
            fit_to_image=False,
            output_type="numpy",
            box_format="xyxy",
        )


@functools.cache
def _sort_by_scores():
    from mtcnn.utils.bboxes import sort_by_scores

    return sort_by_scores


def _sorted(rows, scores, ascending):
    assert not ascending
    return rows[np.argsort(scores, kind="stable")[::-1]]


@functools.cache
def network():
    import mtcnn
    from mtcnn.stages import StageONet, StagePNet, StageRNet
    from mtcnn.utils.bboxes import (
        generate_bounding_box,
        resize_to_square,
        smart_nms_from_bboxes,
        upscale_bboxes,
    )
    from mtcnn.utils.images import scale_images

    class Proposals(StagePNet):
        """The package's first stage with a pyramid that stops where faces get too small for it.

        The package's own goes on below the network's field of view when `min_face_size` is above
        20, fails, and reports that there are no faces.
        """

        def __call__(self, images_normalized, min_face_size, **_):
            sides = images_normalized.shape[1:3]
            found = [np.empty((0, 6))]
            for scale in FIELD / min_face_size * STEP ** np.arange(30):
                if min(sides) * scale < FIELD:
                    break
                offsets, scores = self.model(scale_images(images_normalized, scale))
                cells = generate_bounding_box(offsets, scores, 0.6)
                cells = upscale_bboxes(cells, np.full(len(images_normalized), scale))
                found.append(smart_nms_from_bboxes(cells, threshold=0.5, initial_sort=False))
            return resize_to_square(smart_nms_from_bboxes(np.concatenate(found), threshold=0.7))

    # By default the package prefers, and unpickles, a file of that name in the current folder.
    weights = pathlib.Path(mtcnn.__file__).parent / "assets" / "weights"
    stages = ((Proposals, "pnet"), (StageRNet, "rnet"), (StageONet, "onet"))
    return mtcnn.MTCNN(stages=[stage(weights=str(weights / f"{n}.lz4")) for stage, n in stages])
