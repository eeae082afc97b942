"""Tasks whose labels are about what somebody was taken for: answered only when asked for by name."""

import sys
from collections.abc import Sequence

from data_pipelines.errors import UserError
from data_pipelines.tasks import SENSITIVE, Task


def answered_tasks(tasks: Sequence[Task], asked: Sequence[str] = ()) -> tuple[Task, ...]:
    """The tasks of a model that it answers for, those of `SENSITIVE` only when asked for by name.

    What is left out is said in a line on standard error.

    Args:
        tasks: what the model predicts.
        asked: names of sensitive tasks.

    Raises:
        UserError: a name is no sensitive task of the model, or nothing is left.
    """
    sensitive = [task.name for task in tasks if task.name in SENSITIVE]
    for name in asked:
        if name not in sensitive:
            known = ", ".join(sensitive) or "none"
            raise UserError(f"sensitive {name!r}: no sensitive task of the model; it has: {known}")
    left_out = [name for name in sensitive if name not in asked]
    if left_out:
        names = ",".join(left_out)
        text = f"{', '.join(left_out)}: left out, as sensitive; --sensitive={names} asks for it"
        if len(left_out) == len(tasks):
            raise UserError(f"{text}, and the model has no other task")
        print(text, file=sys.stderr)
    return tuple(task for task in tasks if task.name not in left_out)
