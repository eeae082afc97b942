"""Readers: one per data set, each turns an official folder layout into records.

`READERS` maps a reader's name to its builder class (a `FaceBuilder`); the class is imported when
it is asked for, because builders need TensorFlow Datasets.
"""

import importlib

READERS = {
    "celeba": "data_pipelines.readers.celeba:Celeba",
    "fairface": "data_pipelines.readers.fairface:Fairface",
    "fer2013": "data_pipelines.readers.fer2013:Fer2013",
    "lfw": "data_pipelines.readers.lfw:Lfw",
    "lfwa": "data_pipelines.readers.lfwa:Lfwa",
    "manifest": "data_pipelines.readers.manifest:Manifest",
    "mtfl": "data_pipelines.readers.mtfl:Mtfl",
    "utkface": "data_pipelines.readers.utkface:Utkface",
}

__all__ = ["READERS", "reader_class"]


def reader_class(name: str) -> type:
    """The builder class of a reader.

    Raises:
        ValueError: there is no reader of that name; the message lists those that exist.
    """
    if name not in READERS:
        raise ValueError(f"no reader {name!r}; there are: {', '.join(READERS)}")
    module, class_name = READERS[name].split(":")
    return getattr(importlib.import_module(module), class_name)
