import numpy as np
from drawn_video import draw, face_of

from data_pipelines.detection.tracking import PATIENCE, Tracker


def numbers(tracker, places, score=0.95, sides=None):
    faces = [face_of((*place, 30, 30), score) for place in places if place is not None]
    tracks = iter(tracker(draw(places), faces))
    return [None if place is None else getattr(next(tracks), "number", None) for place in places]


def test_faces_keep_their_numbers_while_they_move_whatever_their_order():
    tracker = Tracker()
    for frame in range(20):
        left, right = (10 + 4 * frame, 20), (60 + 4 * frame, 30)
        places = [left, right]
        faces = [face_of((*place, 30, 30)) for place in places]
        if frame % 2:
            tracks = tracker(draw(places), faces[::-1])[::-1]
        else:
            tracks = tracker(draw(places), faces)
        assert [track.number for track in tracks] == [1, 2]


def test_a_track_survives_some_frames_without_its_face_and_is_interpolated():
    tracker = Tracker()
    for frame in range(30):
        there = not 8 <= frame < 8 + PATIENCE - 1
        (number,) = numbers(tracker, [(10 + 2 * frame, 20)] if there else [None])
        assert number == (1 if there else None)
    (track,) = tracker.tracks
    for frame in range(30):
        np.testing.assert_allclose(track.box(frame, 0), [10 + 2 * frame, 20, 30, 30], atol=1e-4)
    assert track.box(30, 0) is None
    np.testing.assert_allclose(track.box(32, 5), [68, 20, 36, 30], atol=0.5)


def test_after_too_long_a_gap_and_after_a_cut_another_track_begins():
    tracker = Tracker()
    assert numbers(tracker, [(10, 20)]) == [1]
    for _ in range(PATIENCE):
        numbers(tracker, [None])
    assert numbers(tracker, [(10, 20)]) == [2]
    turned = np.ascontiguousarray(draw([(120, 46)])[::-1, ::-1])
    assert tracker(turned, [face_of((10, 20, 30, 30))])[0].number == 3
    dark = (draw([(10, 20)]) * 0.8).astype(np.uint8)
    assert tracker(dark, [face_of((10, 20, 30, 30))])[0].number == 4


def test_another_face_at_the_same_place_is_another_track():
    tracker = Tracker()
    assert numbers(tracker, [(10, 20)]) == [1]
    other = tracker(draw([None, (10, 20)]), [face_of((10, 20, 30, 30))])
    assert [track.number for track in other] == [2]


def test_light_that_changes_is_no_cut():
    tracker = Tracker()
    for light in (1.0, 0.7, 1.1, 0.8):
        pixels = (draw([(10, 20)]) * light).clip(0, 255).astype(np.uint8)
        assert tracker(pixels, [face_of((10, 20, 30, 30))])[0].number == 1


def test_uncertain_faces_go_on_with_a_track_but_begin_none():
    tracker = Tracker()
    assert numbers(tracker, [(10, 20)], score=0.7) == [None]
    assert numbers(tracker, [(10, 20)]) == [1]
    assert numbers(tracker, [(12, 20)], score=0.7) == [1]


def test_one_face_found_twice_has_one_track():
    tracker = Tracker()
    faces = [face_of((10, 20, 30, 30), 0.9), face_of((12, 21, 33, 30), 0.99)]
    first, second = tracker(draw([(10, 20)]), faces)
    assert first is None and second.number == 1


def test_faces_that_pass_each_other_never_swap_their_numbers():
    tracker, owners = Tracker(), {}
    for frame in range(60):
        places = [(2 * frame, 20), (118 - 2 * frame, 24)]
        hidden = abs(places[0][0] - places[1][0]) < 20  # one stands before the other
        for who, number in enumerate(numbers(tracker, [None if hidden else places[0], places[1]])):
            if number is not None:
                assert owners.setdefault(number, who) == who
    assert len(owners) <= 4


def test_what_is_remembered_does_not_grow():
    tracker = Tracker()
    for frame in range(300):
        numbers(tracker, [(10 + frame % 2, 20), (60, 20) if frame % 100 < 50 else None])
    assert len(tracker.tracks) <= 2
    assert max(len(track.frames) for track in tracker.tracks) <= 3 * PATIENCE + 2
