"""Arguments that several sub-commands have."""

from absl.flags import argparse_flags as argparse

from data_pipelines.formats.encoded import MAX_PIXELS


def add_command(commands, name, function, help, examples):
    """A sub-command: what it does, which function, and examples of it."""
    parser = commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=examples.strip("\n"),
        formatter_class=argparse.argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=function)
    return parser


def add_overwrite(parser):
    """The flag `--overwrite` of what makes records."""
    parser.add_argument(
        "--overwrite", action="store_true", help="replace records built from something else"
    )


def add_noprogress(parser):
    """The flag `--noprogress`, which becomes `progress`."""
    parser.add_argument(
        "--noprogress", dest="progress", action="store_false", help="show no progress bar"
    )


def add_max_pixels(parser):
    """The flag `--max_pixels` of what decodes pictures."""
    parser.add_argument(
        "--max_pixels",
        type=int,
        default=MAX_PIXELS,
        help="a picture that is larger by its header is not decoded and counts as a bad one "
        "(default %(default)s)",
    )
