"""The flags of commands that take a recipe, with its fields among them."""

import dataclasses
import difflib
import pathlib
import re
from collections.abc import Callable

from absl import flags
from ml_collections import config_flags

from data_pipelines.errors import UserError
from data_pipelines.files import local
from faceattr_tf.configs import RECIPES, Recipe, create_recipe
from faceattr_tf.configs.base import RENAMED


def define_all(values: flags.FlagValues, arguments: list[str], define: Callable):
    """Declares a command's flags beside those of every recipe; returns the one of the recipe."""
    config = config_flags.DEFINE_config_dataclass(
        "config",
        Recipe(),
        "name of a recipe",
        flag_values=values,
        sys_argv=arguments,
        parse_fn=create_recipe,
    )
    flags.DEFINE_list("records", [], "folders of records, with commas", flag_values=values)
    define(values)
    flags.DEFINE_bool("progress", True, "show a progress bar", flag_values=values)
    return config


def parse(arguments: list[str], define: Callable) -> tuple[Recipe, flags.FlagValues]:
    """The recipe and the other flags of a command line.

    Args:
        arguments: what follows the command's name.
        define: declares the command's own flags.

    Raises:
        UserError: a flag, recipe, field or value does not exist.
    """
    recipe, values, rest = parse_all(arguments, define)
    if rest:
        raise UserError(f"argument {rest[0]!r} is no flag; --help shows the flags")
    if not recipe.name:
        raise UserError(f"--config is missing; there are: {', '.join(sorted(RECIPES))}")
    return recipe, values


def file_to_write(flag: str, text: str | None) -> pathlib.Path | None:
    """The file that a flag names, None where it names none.

    Raises:
        UserError: its folder does not exist, which is better said before hours of work than after.
    """
    file = local(text) if text else None
    if file and not file.parent.is_dir():
        raise UserError(f"{flag} {file}: its folder does not exist")
    return file


def parse_all(arguments: list[str], define: Callable) -> tuple[Recipe, flags.FlagValues, list[str]]:
    """The same where a recipe may be missing, its name then being empty; and what is no flag."""
    values = flags.FlagValues()
    arguments = ["faceattr", *arguments]
    holder = define_all(values, arguments, define)
    try:
        rest = values(arguments)[1:]
    except KeyError as error:
        raise UserError(unknown_field(str(error))) from None
    except (flags.Error, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(" ".join(str(error).split())) from None
    recipe = holder.value
    if values.records:
        recipe.data.records = tuple(values.records)
    return recipe, values, rest


def unknown_field(message: str) -> str:
    """What to say of a field that the recipe does not have, given what the flag library said."""
    found = re.search(r"Field (\w+) not found", message)
    name = found[1] if found else message.strip("'\"")
    if name in RENAMED:
        return f"the recipe's field {name!r} is called {RENAMED[name]!r} now"
    known = {path.rsplit(".", 1)[-1]: path for path, _ in fields_of(create_recipe("smoke"))}
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean --config.{known[near[0]]}? " if near else ""
    return f"the recipe has no field {name!r}; {hint}--help lists the fields"


def help_text(usage: str, define: Callable) -> str:
    """What `--help` prints: usage, recipes, flags, and the fields of a recipe."""
    lines = [usage.strip(), "", "recipes:"]
    for name, recipe in sorted(RECIPES.items()):
        lines.append(f"  {name:32}{recipe.__doc__.splitlines()[0]}")
    lines += ["", "flags:"]
    own, values = flags.FlagValues(), flags.FlagValues()
    define(own)
    define_all(values, [], define)
    for name in ("config", "records", *own, "progress"):
        lines.append(f"  --{name:30}{values[name].help}")
    lines += ["", "fields of --config and their defaults:"]
    lines += [f"  --config.{path}={value!r}" for path, value in fields_of(create_recipe("smoke"))]
    return "\n".join(lines)


def fields_of(value, path: str = ""):
    """Every plain field below a recipe, as `(path, value)`."""
    for field in dataclasses.fields(value):
        item, name = getattr(value, field.name), path + field.name
        if dataclasses.is_dataclass(item):
            yield from fields_of(item, f"{name}.")
        elif isinstance(item, tuple) and item and dataclasses.is_dataclass(item[0]):
            yield from fields_of(item[0], f"{name}[0].")
        else:
            yield name, item


def asks_for_help(arguments: list[str]) -> bool:
    """Whether a command line asks for help in any of the usual ways."""
    return bool({"--help", "-h", "-help"} & set(arguments))
