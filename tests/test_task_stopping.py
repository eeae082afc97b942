"""Task-wise early stopping, against the formula worked out by hand."""

from faceattr_tf.training.task_stopping import should_stop


def test_criterion_is_the_product_of_both_terms():
    training, validation = [8.0, 4.0, 2.0], [8.0, 5.0, 3.0]
    # k * median = 12, sum = 14: tendency 12 / 2 = 6; generalisation (3 - 2) / (0.5 * 2) = 1.
    assert should_stop(training, validation, window=3, threshold=5.9, scale=0.5)
    assert not should_stop(training, validation, window=3, threshold=6.1, scale=0.5)


def test_a_straight_fall_counts_as_a_tendency_of_a_hundred():
    training, validation = [3.0, 2.0, 1.0], [3.0, 2.5, 2.0]
    assert should_stop(training, validation, window=3, threshold=99.0, scale=1.0)
    assert not should_stop(training, validation, window=3, threshold=101.0, scale=1.0)


def test_a_task_goes_on_while_it_generalises_or_is_young():
    assert not should_stop([2.0, 1.0, 0.9], [2.0, 1.0, 0.8], 3, 0.1, 1.0)
    assert not should_stop([2.0, 1.0], [2.0, 9.0], 3, 0.1, 1.0)
    assert not should_stop([2.0, 1.0, 1.0], [2.0, 9.0, 9.0], 0, 0.1, 1.0)
