"""Programs on Keras' other backends, each in a process of its own."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

LEAN = """
import sys
# What Keras imports where it is installed, and nothing here asks it for.
sys.modules.update(dict.fromkeys(("matplotlib", "sklearn")))
"""

DRAWN_BY_NUMPY = """
import jax, numpy

# JAX compiles every shape of weights that it draws, for a fifth of a second each.
def drawn(distribution):
    def draw(key, shape=(), dtype="float32", **limits):
        random = numpy.random.default_rng(numpy.asarray(key).ravel().tolist())
        return jax.numpy.asarray(distribution(random, shape, **limits), dtype)
    return draw

def uniform(random, shape, minval=0.0, maxval=1.0):
    return random.uniform(minval, maxval, shape)

def normal(random, shape, lower=-numpy.inf, upper=numpy.inf):
    return random.normal(size=shape).clip(lower, upper)

jax.random.uniform = drawn(uniform)
jax.random.normal = jax.random.truncated_normal = drawn(normal)
"""


def on_backend(backend: str, program: str, *arguments: str) -> subprocess.CompletedProcess:
    """Runs a program under `KERAS_BACKEND`; skips the test where the backend is not installed."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "PYTHONPATH": str(pathlib.Path(__file__).parents[1]),
        # JAX compiles every shape that it meets, each of them once.
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    before = LEAN + (DRAWN_BY_NUMPY if backend == "jax" else "")
    return subprocess.run(
        [sys.executable, "-c", before + program, *arguments],
        env=environment,
        capture_output=True,
        check=False,
        text=True,
    )
