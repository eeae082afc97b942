import numpy as np
import pytest

from data_pipelines.tasks import (
    AGE_BINS,
    AGE_RANGE,
    UNKNOWN,
    Task,
    as_classes,
    join_labels,
    most_voted,
    range_of,
)


def test_descriptions_come_back_as_they_were_and_older_ones_lack_values():
    assert Task.from_dict(AGE_BINS.to_dict()) == AGE_BINS
    older = {"name": "pose", "kind": "multiclass", "labels": ["left", "right"], "mirror": [1, 0]}
    assert Task.from_dict(older) == Task("pose", "multiclass", ("left", "right"), (1, 0))


@pytest.mark.parametrize("values", [(1.0,), (1.0, 1.0), (2.0, 1.0)])
def test_values_are_one_for_each_class_and_ascend(values):
    with pytest.raises(ValueError, match="not one for each of its 2 classes, ascending"):
        Task("age", "multiclass", ("young", "old"), values=values)
    with pytest.raises(ValueError, match="not one for each"):
        Task("age", "regression", ("years",), values=(1.0,))


@pytest.mark.parametrize(("task", "classes"), [(AGE_BINS, 14), (AGE_RANGE, 9)])
def test_every_age_is_in_the_range_that_its_name_says(task, classes):
    assert len(task.labels) == classes
    for years in range(117):
        first, _, last = (
            task.labels[range_of(task, years)].removeprefix("more than ").partition("-")
        )
        assert int(first.rstrip("+")) <= years
        assert years <= int(last) if last else (first == str(years) or years >= 60)


VOTES = Task("emotion", "distribution", ("happy", "sad"))
CLASSES = Task("emotion", "multiclass", ("happy", "sad"))


def test_the_most_voted_class_is_the_first_of_equal_ones_and_unknown_stays_unknown():
    shares = np.array([[0.2, 0.8], [0.5, 0.5], [np.nan, np.nan]], np.float32)
    assert most_voted(shares).tolist() == [1, 0, UNKNOWN]
    assert (as_classes(VOTES), as_classes(CLASSES)) == (CLASSES, CLASSES)
    assert np.isnan(VOTES.unknown()).all() and VOTES.unknown().shape == (2,)


def test_votes_are_joined_from_single_classes_but_not_the_other_way_round():
    assert join_labels(CLASSES, VOTES) == join_labels(VOTES, VOTES) == [0, 1]
    with pytest.raises(ValueError, match="is not task"):
        join_labels(VOTES, CLASSES)
    with pytest.raises(ValueError, match="labels sad, happy are not happy, sad"):
        join_labels(Task("emotion", "multiclass", ("sad", "happy")), VOTES)
