"""How a program ends that holds an iterator over a dataset which asks Python for its elements."""

import atexit
import functools
import gc


@functools.cache
def close_iterators_at_exit() -> None:
    """Deletes all iterators of `tf.data` when the interpreter exits, before its lock is gone.

    What reads ahead waits for that lock, which nobody gets any more once modules are taken down;
    an iterator in a global variable goes with them, and its end waits for what reads ahead.
    """
    atexit.register(_close)


def _close() -> None:
    import tensorflow as tf

    for found in gc.get_objects():
        if issubclass(type(found), tf.data.Iterator):
            vars(found).clear()
