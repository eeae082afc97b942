"""Face attributes with TensorFlow and Keras: models, training, honest reports, predictions.

The names listed here are the public interface. They are loaded when they are first used, so that
`import faceattr_tf` costs nothing and models build on any Keras backend without TensorFlow.
"""

import importlib

_HOME = {
    "Analyzer": "analyzer",
    "LOSSES": "losses",
    "MODELS": "models",
    "Workdir": "workdir",
    "build_model": "models",
    "evaluate_task": "metrics",
    "task_loss": "losses",
}

__all__ = list(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted([*globals(), *__all__])
