"""The one exception that stands for a user's mistake."""


class UserError(ValueError):
    """A mistake that its reader can mend: one line that says what was wrong and what is right.

    Commands print its text without a traceback and exit with status 1; from Python it is an
    ordinary `ValueError`. Raise it where the mistake is visible, and name file, row and value.
    """
