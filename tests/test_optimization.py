"""Learning rates and optimizers of a phase."""

import numpy as np
import pytest

from data_pipelines.errors import UserError
from faceattr_tf.configs.base import Phase
from faceattr_tf.training.optimizers import create_learning_rate, create_optimizer


def test_piecewise_drops_at_shares_of_the_phase():
    phase = Phase(learning_rate=1.0, schedule="piecewise", boundaries=(0.5, 0.75), decay=0.1)
    rate = create_learning_rate(phase, 100)
    assert [round(float(rate(step)), 4) for step in (0, 49, 51, 74, 76)] == [1, 1, 0.1, 0.1, 0.01]


def test_cosine_warms_up_then_falls_to_its_floor():
    phase = Phase(learning_rate=2.0, schedule="cosine", warmup=0.1, decay=0.0)
    rate = create_learning_rate(phase, 100)
    assert float(rate(0)) == 0.0
    assert float(rate(5)) == pytest.approx(1.0)
    expected = 2.0 * 0.5 * (1 + np.cos(np.pi * 45 / 90))
    assert float(rate(55)) == pytest.approx(expected, abs=1e-5)
    assert float(rate(100)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adam", "adamw"])
def test_decay_leaves_biases_alone(name):
    import keras

    dense = keras.layers.Dense(2)
    dense.build((None, 3))
    dense.bias.assign([1.0, 1.0])
    before = dense.kernel.numpy()
    phase = Phase(optimizer=name, learning_rate=0.1, weight_decay=0.5)
    optimizer = create_optimizer(phase, 10, "float32")
    optimizer.build([dense.kernel, dense.bias])
    optimizer.apply([np.zeros((3, 2), "f"), np.zeros(2, "f")], [dense.kernel, dense.bias])
    np.testing.assert_allclose(dense.kernel.numpy(), before * (1 - 0.1 * 0.5), rtol=1e-5)
    np.testing.assert_array_equal(dense.bias.numpy(), [1.0, 1.0])


def test_wrong_names_list_the_right_ones():
    with pytest.raises(UserError, match="'adamm' is none of sgd, rmsprop, adam, adamw"):
        create_optimizer(Phase(optimizer="adamm"), 10, "float32")
    with pytest.raises(UserError, match="'step' is none of constant, piecewise, cosine"):
        create_optimizer(Phase(schedule="step"), 10, "float32")
