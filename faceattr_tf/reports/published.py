"""Figures that papers published for the data sets that reports are written about, in per cent.

They are quoted as printed, never corrected. `None` stands for what a paper does not give, or for
a cell that its text copy lost.
"""

import dataclasses

from data_pipelines.tasks import CELEBA_ATTRIBUTES

LNETS_ANET = "Liu et al., Deep Learning Face Attributes in the Wild, ICCV 2015, Table 1"
FACESTN_PAPER = "Tan et al., Deep Face Attributes Recognition Using Spatial Transformer Network"
FACESTN = f"{FACESTN_PAPER}, Table 1"
FUSION_PAPER = "Wang et al., Joint Multi-Feature Fusion and Attribute Relationships"
FUSION = f"{FUSION_PAPER}, Table III"
KTH_MTFL = "Canal Garcia et al., Prediction of Attributes, KTH"

NOT_COMPARABLE_MTFL = (
    "not strictly comparable: the published accuracies, precisions and recalls imply class shares "
    "that differ from those of the AFLW rows of testing.txt, and the published confusion matrices "
    "repeat precision"
)

Confusion = tuple[tuple[float, float], tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Published:
    """One row of a paper's table: a method and its figures on the test part of a data set.

    Attributes:
        data: name of the data set.
        method: name of the method, as the paper calls it.
        source: paper and table.
        accuracy: attribute -> accuracy in per cent.
        average: the mean over all attributes as the source prints it.
        precision: attribute -> (of "yes", of "no") in per cent.
        recall: attribute -> (of "yes", of "no") in per cent.
        confusion: attribute -> the printed matrix in per cent, rows and columns "no", "yes".
        split: the part of the data set that the figures were measured on.
        caveat: why the row cannot be compared with ours directly; empty where it can.
    """

    data: str
    method: str
    source: str
    accuracy: dict[str, float | None]
    average: float | None = None
    precision: dict[str, tuple[float | None, float | None]] = dataclasses.field(
        default_factory=dict
    )
    recall: dict[str, tuple[float | None, float | None]] = dataclasses.field(default_factory=dict)
    confusion: dict[str, Confusion] = dataclasses.field(default_factory=dict)
    split: str = "test"
    caveat: str = ""


TEST_EXAMPLES = {"celeba": 19962, "lfwa": 6880, "mtfl": 2995}
"""Examples in the official test part, on which the rows were measured."""

FEWEST = 500
"""On fewer images a figure is less certain than methods differ, so nothing is put beside it."""


def published_rows(data: str, split: str = "test", count: int | None = None) -> list[Published]:
    """The published rows for a data set, each with what stands against comparing it.

    Args:
        data: name of the record set (`celeba`, `lfwa`, `mtfl`); any other has no rows.
        split: the split that ours are measured on; papers mostly report the test part.
        count: its number of examples, to tell whether it is the official test part; below
            `FEWEST` there are no rows.
    """
    if count is not None and count < FEWEST:
        return []
    official, size = TEST_EXAMPLES.get(data), ""
    if split == "test" and official and count is not None and count != official:
        size = f"published for the {official:,} official test images, not for these {count:,}"
    found = []
    for row in PUBLISHED:
        if row.data == data:
            part = f"published for the {row.split} part, not for {split}"
            caveats = (row.caveat, size if row.split == split else part)
            found.append(dataclasses.replace(row, caveat="; ".join(filter(None, caveats))))
    return found


def _row(data: str, method: str, source: str, average: float, cells: str) -> Published:
    """A row of 40 cells in CelebA's order; `-` is a cell that the text copy lost."""
    values = [None if cell == "-" else float(cell) for cell in cells.split()]
    accuracy = dict(zip(CELEBA_ATTRIBUTES, values, strict=True))
    return Published(data, method, source, accuracy, average)


def _condition(data: str, method: str, average: float, table="", accuracy=None) -> Published:
    """A condition of FaceSTN's section III.D, whose text gives the averages with a decimal."""
    source = ", ".join(filter(None, (FACESTN_PAPER, "section III.D", table)))
    return Published(data, f"FaceSTN, {method}", source, accuracy or {}, average)


def _average(method: str, celeba: float, lfwa: float) -> list[Published]:
    """A row of Fusion+OBRL's Table III, which has averages alone; its MTCNN is no detector."""
    averages = {"celeba": celeba, "lfwa": lfwa}
    return [Published(data, method, FUSION, {}, average) for data, average in averages.items()]


def _smile(method: str, table: str, accuracy: float, *more, **named) -> Published:
    return _mtfl("Smiling", method, table, accuracy, *more, **named)


def _gender(method: str, table: str, accuracy: float, *more, **named) -> Published:
    return _mtfl("Male", method, table, accuracy, *more, **named)


def _mtfl(
    label, method, table, accuracy, precision=None, recall=None, confusion=None, split="test"
) -> Published:
    return Published(
        "mtfl",
        method,
        f"{KTH_MTFL}, {table}",
        {label: accuracy},
        precision={label: precision} if precision else {},
        recall={label: recall} if recall else {},
        confusion={label: confusion} if confusion else {},
        split=split,
        caveat=NOT_COMPARABLE_MTFL,
    )


BOTTLENECKS = "InceptionV3 bottlenecks"
FINE_TUNED = "InceptionV3 fine-tuned"

# The two columns of FaceSTN's table that its text copy tore apart: a figure that stands split over
# two cells ("8", "7") is joined, as it is in the rows that LNets+ANet's table also prints; on CelebA
# Male, Straight_Hair and Wavy_Hair are gone. The rivals' rows are taken from LNets+ANet.
# Table 4 of KTH-MTFL prints female before male; here "yes" is male. Table 3 prints smiling before not
# smiling; its matrices are turned, so that "no" comes first in all. Table 5 names no class for its
# precision and recall, which are quoted under "yes".
PUBLISHED: tuple[Published, ...] = (
    _row(
        "celeba", "FaceTracer", LNETS_ANET, 81,
        "85 76 78 76 89 88 64 74 70 80 81 60 80 86 88 98 93 90 85 84"
        " 91 87 91 82 90 64 83 68 76 84 94 89 63 73 73 89 89 68 86 80",
    ),
    _row(
        "celeba", "PANDA-w", LNETS_ANET, 79,
        "82 73 77 71 92 89 61 70 74 81 77 69 76 82 85 94 86 88 84 80"
        " 93 82 83 79 87 62 84 65 82 81 90 89 67 76 72 91 88 67 88 77",
    ),
    _row(
        "celeba", "PANDA-l", LNETS_ANET, 85,
        "88 78 81 79 96 92 67 75 85 93 86 77 86 86 88 98 93 94 90 86"
        " 97 93 93 84 93 65 91 71 85 87 93 92 69 77 78 96 93 67 91 84",
    ),
    _row(
        "celeba", "LNets+ANet", LNETS_ANET, 87,
        "91 79 81 79 98 95 68 78 88 95 84 80 90 91 92 99 95 97 90 87"
        " 98 92 95 81 95 66 91 72 89 90 96 92 73 80 88 99 93 71 93 87",
    ),
    _row(
        "celeba", "Off-the-shelf", FACESTN, 86.3,
        "89 83 82 79 96 94 70 79 87 93 87 79 87 88 89 99 94 95 91 87"
        " - 92 93 78 94 67 85 73 87 88 95 92 - - 82 96 93 73 93 86",
    ),
    _row(
        "celeba", "FaceSTN", FACESTN, 91.1,
        "95 84 83 85 99 96 71 85 89 96 96 88 93 96 96 99 98 98 91 88"
        " - 94 97 88 96 75 97 78 93 95 98 93 - - 90 99 94 86 96 89",
    ),
    _row(
        "lfwa", "FaceTracer", LNETS_ANET, 74,
        "70 67 71 65 77 72 68 73 76 88 73 62 67 67 70 90 69 78 88 77"
        " 84 77 83 73 69 66 70 74 63 70 71 78 67 62 88 75 87 81 71 80",
    ),
    _row(
        "lfwa", "PANDA-w", LNETS_ANET, 71,
        "64 63 70 63 82 79 64 71 78 87 70 65 63 65 64 84 65 77 86 75"
        " 86 74 77 68 63 64 64 68 61 64 68 77 68 63 85 78 83 79 70 76",
    ),
    _row(
        "lfwa", "PANDA-l", LNETS_ANET, 81,
        "84 79 81 80 84 84 73 79 87 94 74 74 79 69 75 89 75 81 93 86"
        " 92 78 87 73 75 72 84 76 84 73 76 89 73 75 92 82 93 86 79 82",
    ),
    _row(
        "lfwa", "LNets+ANet", LNETS_ANET, 84,
        "84 82 83 83 88 88 75 81 90 97 74 77 82 73 78 95 78 84 95 88"
        " 94 82 92 81 79 74 84 80 85 78 77 91 76 76 94 88 95 88 79 86",
    ),
    _row(
        "lfwa", "Off-the-shelf", FACESTN, 84.5,
        "77 83 79 83 91 91 78 83 91 97 88 76 83 75 80 91 83 87 95 88"
        " 94 81 94 81 80 75 73 83 86 82 82 90 77 77 95 90 95 90 81 86",
    ),
    _row(
        "lfwa", "FaceSTN", FACESTN, 86.0,
        "78 83 80 84 92 91 79 84 91 97 87 79 86 76 83 93 84 88 96 89"
        " 94 83 94 84 82 78 84 85 86 78 82 92 81 81 95 90 95 90 81 86",
    ),
    _condition("celeba", "with alignment", 91.2, "Table 3", {"Smiling": 92.9, "Straight_Hair": 83.1}),
    _condition("celeba", "without alignment", 91.1),
    _condition("celeba", "without alignment + transformer", 91.1, "Table 3",
               {"Smiling": 92.9, "Straight_Hair": 83.7}),
    _condition("lfwa", "with alignment", 85.7, "Table 4", {"Blurry": 86.2, "Big_Lips": 77.8}),
    _condition("lfwa", "without alignment", 85.9),
    _condition("lfwa", "without alignment + transformer", 86.0, "Table 4",
               {"Blurry": 86.9, "Big_Lips": 79.4}),
    *_average("Location + Weather", 88.65, 86.6),
    *_average("Fusion, MTCNN without OBRL", 90.38, 85.97),
    *_average("Fusion, MTCNN with OBRL", 91.47, 86.51),
    _smile(BOTTLENECKS, "Table 3", 68.5, (64.1, 73.8), (75.6, 63.2),
           ((74, 26), (36, 64))),
    _smile(FINE_TUNED, "Table 3", 87.5, (97.6, 75.4), (82.6, 96.3),
           ((75, 25), (2, 98))),
    _smile(f"{BOTTLENECKS}, cropped (*)", "Table 3", 70.1, (63.4, 78.4), (77.9, 64.1),
           ((78, 22), (37, 63))),
    _smile(f"{FINE_TUNED}, cropped (*)", "Table 3", 72.5, (86.7, 55.4), (69.9, 77.7),
           ((55, 45), (13, 87))),
    _gender(BOTTLENECKS, "Table 4", 86.3, (85.2, 87.1), (81.0, 90.1),
           ((87, 13), (15, 85))),
    _gender(FINE_TUNED, "Table 4", 83.5, (94.3, 76.9), (72.4, 95.4),
           ((77, 23), (6, 94))),
    _gender(f"{BOTTLENECKS}, cropped (*)", "Table 4", 86.1, (82.4, 88.5), (82.1, 88.6),
           ((88, 12), (18, 82))),
    _gender(f"{FINE_TUNED}, cropped (*)", "Table 4", 85.1, (91.7, 80.8), (75.5, 93.8),
           ((80, 19), (8, 92))),
    _gender("Cascade CNN, 1e-3, 63 epochs", "Table 5", 71.4, (79.4, None), (60.2, None)),
    _gender("Cascade CNN, 1e-3, 125 epochs", "Table 5", 74.6, (73.8, None), (65.7, None)),
    _gender("Cascade CNN, 1e-4, 63 epochs", "Table 5", 73.0, (77.0, None), (62.7, None)),
    _gender("Cascade CNN, 1e-4, 125 epochs", "Table 5", 75.0, (75.4, None), (65.8, None)),
    _smile("Cascade CNN, 1e-3, 63 epochs", "Table 5", 67.2, (71.5, None), (69.3, None)),
    _smile("Cascade CNN, 1e-3, 125 epochs", "Table 5", 67.6, (68.3, None), (71.1, None)),
    _smile("Cascade CNN, 1e-4, 63 epochs", "Table 5", 71.4, (72.4, None), (74.4, None)),
    _smile("Cascade CNN, 1e-4, 125 epochs", "Table 5", 71.5, (71.4, None), (75.1, None)),
    _smile("TCDCN, 1e-4, 45 epochs", "section 4.2", 72.5),
    _smile("TCDCN, 1e-4, 45 epochs, validation", "section 4.2", 86, split="validation"),
)  # fmt: skip
