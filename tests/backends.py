"""Programs on Keras' other backends, each in a process of its own."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest


def on_backend(backend: str, program: str, *arguments: str) -> subprocess.CompletedProcess:
    """Runs a program under `KERAS_BACKEND`; skips the test where the backend is not installed."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "PYTHONPATH": str(pathlib.Path(__file__).parents[1]),
        # JAX compiles every shape that it meets, each of them once.
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        capture_output=True,
        check=False,
        text=True,
    )
