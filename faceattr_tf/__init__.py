"""Face attributes with TensorFlow and Keras: models, training, honest reports, predictions.

The names listed here are the public interface. They are loaded when they are first used, so that
`import faceattr_tf` costs nothing and models build on any Keras backend without TensorFlow.
"""

import importlib

_EXPORTS = {
    "Analyzer": "prediction.analyzer:Analyzer",
    "LOSSES": "losses:LOSSES",
    "Localiser": "prediction.localisation:Localiser",
    "MODELS": "models:MODELS",
    "SpatialTransformer": "layers:SpatialTransformer",
    "Workdir": "workdir:Workdir",
    "build_model": "models:build_model",
    "evaluate_task": "evaluation.metrics:evaluate_task",
    "evaluate_workdir": "reports.evaluate:evaluate",
    "task_loss": "losses:task_loss",
}

__all__ = list(_EXPORTS)


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _EXPORTS[name].partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)


def __dir__():
    return sorted({*globals(), *__all__})
