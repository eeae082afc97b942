"""Trained models as SavedModels that TensorFlow Serving, or TensorFlow alone, can run.

`export_model` writes a workdir's best model as `<folder>/<name>/<version>/`.
"""

__all__ = ["ExportOptions", "export_model"]


def __getattr__(name: str):
    if name in __all__:
        from export import saved_model

        return getattr(saved_model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return __all__
