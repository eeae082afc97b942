"""Data sets of labelled faces: from their official folders to TFRecords to batches."""

import importlib

_PUBLIC = {
    "Augment": "data_pipelines.input.augment",
    "Crop": "data_pipelines.crop.geometry",
    "READERS": "data_pipelines.readers",
    "RecordSet": "data_pipelines.records.build",
    "Source": "data_pipelines.input.batches",
    "Task": "data_pipelines.tasks",
    "UserError": "data_pipelines.errors",
    "build": "data_pipelines.records.build",
    "decode_and_crop": "data_pipelines.crop.pixels",
    "evaluation_batches": "data_pipelines.input.batches",
    "training_batches": "data_pipelines.input.batches",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str):
    """Loads a public name when it is first used, since TensorFlow takes seconds to import."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__():
    return sorted(__all__)
