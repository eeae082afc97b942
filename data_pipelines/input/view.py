"""What a network is shown of a face."""

import dataclasses

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from data_pipelines.input.augment import Augment

_MOVES = ("shift", "rotate", "scale")


@dataclasses.dataclass(frozen=True)
class View:
    """The crop of a face, the crop that a spatial transformer makes of it, a fixed displacement.

    Attributes:
        crop: what the network sees of an image.
        aligned: the crop that a spatial transformer is to make of `crop`, whose size it is given;
            labels of the kind `transform` are computed from it, and unknown without it.
        displacement: a random displacement of each face (`shift`, `rotate`, `scale`), which stays
            the same in every epoch, split and run; None for none.
    """

    crop: Crop
    aligned: Crop | None = None
    displacement: Augment | None = None

    def __post_init__(self):
        """Raises UserError if a crop is not resolved or a displacement does more than to move."""
        self.crop.check(resolved=True)
        if self.aligned is not None:
            size = {"height": self.crop.height, "width": self.crop.width}
            object.__setattr__(self, "aligned", dataclasses.replace(self.aligned, **size))
            self.aligned.check(resolved=True)
        if self.displacement is not None:
            _check_displacement(self.displacement)
            if not self.displacement.geometric:
                object.__setattr__(self, "displacement", None)

    def to_dict(self) -> dict:
        """The view as JSON has it."""
        return {
            "crop": self.crop.to_dict(),
            "aligned": self.aligned.to_dict() if self.aligned else None,
            "displacement": dataclasses.asdict(self.displacement) if self.displacement else None,
        }

    @classmethod
    def from_dict(cls, fields: dict) -> "View":
        """The view that `to_dict` wrote; runs of 0.1 call the displacement `disturb`."""
        aligned = fields.get("aligned")
        displacement = fields.get("displacement", fields.get("disturb"))
        return cls(
            Crop.from_dict(fields["crop"]),
            Crop.from_dict(aligned) if aligned else None,
            Augment(**displacement) if displacement else None,
        )


def _check_displacement(displacement: Augment) -> None:
    """Raises UserError if a displacement does anything else than to move the face."""
    displacement.check("displacement")
    for field in dataclasses.fields(displacement):
        value = getattr(displacement, field.name)
        if field.name not in _MOVES and value != field.default:
            raise UserError(
                f"displacement: {field.name} {value} does not move a face; "
                f"it has: {', '.join(_MOVES)}"
            )
