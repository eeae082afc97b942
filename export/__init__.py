"""Trained models as SavedModels that TensorFlow Serving, or TensorFlow alone, can run.

`export_model` writes a workdir's best model as `<folder>/<name>/<version>/`, `export_runtimes` files
of LiteRT, ONNX and OpenVINO beside it.
"""

import importlib

_HOMES = {
    "Check": "check",
    "Client": "client",
    "ExportOptions": "saved_model",
    "RuntimeOptions": "runtimes.writing",
    "export_model": "saved_model",
    "export_runtimes": "runtimes.writing",
    "write_deployment": "deployment",
}
__all__ = list(_HOMES)


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(f"export.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return __all__
