"""The progress bars of all commands: on a terminal only, since in a file they are noise."""

from tqdm import tqdm


def progress_bar(total: int, unit: str, *, show: bool = True, **options) -> tqdm:
    """A bar on the standard error stream, where that is a terminal.

    Args:
        total: how many steps there are.
        unit: what one of them is.
        show: False shows none on a terminal either.
        **options: of `tqdm`.
    """
    return tqdm(
        total=total, unit=unit, disable=None if show else True, dynamic_ncols=True, **options
    )
