"""Which of CelebA's attributes lie close together on a face: nine groups, or those of a file."""

import json
import os
from collections.abc import Mapping, Sequence

from data_pipelines.errors import UserError
from data_pipelines.files import local

GROUPS = {
    "hair": (
        *("Bald", "Bangs", "Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair"),
        *("Receding_Hairline", "Straight_Hair", "Wavy_Hair", "Wearing_Hat"),
    ),
    "eye": (
        *("Arched_Eyebrows", "Bags_Under_Eyes", "Bushy_Eyebrows", "Eyeglasses", "Narrow_Eyes"),
    ),
    "ear": ("Wearing_Earrings",),
    "nose": ("Big_Nose", "Pointy_Nose"),
    "mouth": ("Big_Lips", "Mouth_Slightly_Open", "Smiling", "Wearing_Lipstick"),
    "beard": (*("5_o_Clock_Shadow", "Double_Chin", "Goatee", "Mustache", "No_Beard", "Sideburns"),),
    "cheek": ("High_Cheekbones", "Rosy_Cheeks"),
    "neck": ("Wearing_Necklace", "Wearing_Necktie"),
    "global": (
        *("Attractive", "Blurry", "Chubby", "Heavy_Makeup", "Male", "Oval_Face", "Pale_Skin"),
        "Young",
    ),
}
"""Table I of Fusion+OBRL, whose `Receding_Hair` is CelebA's `Receding_Hairline`, `Bush_Eyebrows` its
`Bushy_Eyebrows`, and `Over_Face` its `Oval_Face`."""


def check_groups(
    groups: Mapping[str, Sequence[str]], attributes: Sequence[str], where: str
) -> None:
    """Makes sure that every attribute is in one group.

    Args:
        groups: name -> attributes.
        attributes: those that are to be covered.
        where: what the groups are, for the message.

    Raises:
        UserError: one is in none, in several, or does not exist.
    """
    place: dict[str, str] = {}
    for group, members in groups.items():
        for name in members:
            if name not in attributes:
                raise UserError(f"{where}: {name!r} of group {group!r} is none of the attributes")
            if name in place:
                raise UserError(f"{where}: {name!r} is in {place[name]!r} and in {group!r}")
            place[name] = group
    for name in attributes:
        if name not in place:
            raise UserError(f"{where}: {name!r} is in no group")


def read_groups(path: str | os.PathLike, attributes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The groups of a JSON file, an object of group -> list of attributes.

    Raises:
        UserError: it is none, or does not hold every attribute once.
    """
    try:
        groups = json.loads(local(path).read_bytes())
        if not isinstance(groups, dict) or not all(
            isinstance(of, list) and of and all(isinstance(one, str) for one in of)
            for of in groups.values()
        ):
            raise ValueError
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected a file of groups") from None
    except ValueError:
        raise UserError(f"{path}: expected a JSON object of group -> list of attributes") from None
    check_groups(groups, attributes, str(path))
    return {group: tuple(members) for group, members in groups.items()}
