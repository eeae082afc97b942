"""Encoded pictures: every decoder sees the same upright pixels, and nothing is decoded unasked."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tiny_workdir import draw_picture

from data_pipelines.errors import UserError
from data_pipelines.formats import encoded
from data_pipelines.formats.encoded import decode, read_header, readable, unread, upright
from data_pipelines.formats.images import ImageArchive, ImageFolder

PIXELS = draw_picture(0, 12, 20)
ROUNDING = 12  # between decoders of JPEG, on a picture of noise
TURNS = {  # EXIF 2.32, section 4.6.4: what is stored in the first row and column
    1: lambda p: p,
    2: np.fliplr,
    3: lambda p: np.rot90(p, 2),
    4: np.flipud,
    5: lambda p: np.fliplr(np.rot90(p, -1)),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: np.fliplr(np.rot90(p, 1)),
    8: lambda p: np.rot90(p, 1),
}


def saved(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def exif_block(value, order=">", kind=3):
    """A TIFF structure whose only tag is the orientation, as SHORT (3) or LONG (4)."""
    number = struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}I", value)
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(f"{order}I", 8)
    return head + struct.pack(f"{order}HHHI", 1, 0x0112, kind, 1) + number + bytes(4)


def jpeg(value, order=">", kind=3, before=b""):
    data = saved(Image.fromarray(PIXELS), "JPEG", quality=100, subsampling=0)
    exif = b"Exif\0\0" + exif_block(value, order, kind)
    return data[:2] + before + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def png(value, last=False):
    data = saved(Image.fromarray(PIXELS), "PNG")
    body = b"eXIf" + exif_block(value)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    place = len(data) - 12 if last else 33
    return data[:place] + chunk + data[place:]


def with_exif(value, format, **options):
    exif = Image.Exif()
    exif[0x0112] = value
    return saved(Image.fromarray(PIXELS), format, exif=exif, **options)


XMP = b"http://ns.adobe.com/xap/1.0/\0<x/>"
TAGGED = {
    "JPEG": jpeg,
    "JPEG, little-endian": lambda value: jpeg(value, "<"),
    "JPEG, LONG": lambda value: jpeg(value, kind=4),
    "JPEG, little-endian LONG": lambda value: jpeg(value, "<", 4),
    "JPEG, fill bytes": lambda value: jpeg(value, before=b"\xff\xff\xff"),
    "JPEG, XMP first": lambda value: jpeg(
        value, before=b"\xff\xe1" + struct.pack(">H", len(XMP) + 2) + XMP
    ),
    "PNG": png,
    "PNG, behind the pixels": lambda value: png(value, last=True),
    "WebP": lambda value: with_exif(value, "WEBP", lossless=True),
    "TIFF": lambda value: with_exif(value, "TIFF"),
    "AVIF": lambda value: with_exif(value, "AVIF", quality=100, subsampling="4:4:4"),
}


def seen_by_all(data):
    """What TensorFlow, OpenCV and Pillow make of it, and this module."""
    pillow = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    opencv = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    tensorflow = tf.io.decode_image(data, channels=3).numpy()
    return [pillow, opencv, tensorflow, decode(data)]


@pytest.mark.parametrize("form", TAGGED)
@pytest.mark.parametrize("value", TURNS)
def test_every_decoder_sees_the_picture_upright(form, value):
    data = TAGGED[form](value)
    result = upright(data)
    assert read_header(result).orientation == 1
    assert (result is data) == (value == 1 and form.startswith(("JPEG", "PNG")))
    for pixels in (decode(data), *seen_by_all(result)):
        np.testing.assert_allclose(pixels, TURNS[value](PIXELS), atol=ROUNDING)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_makes_no_sense_counts_as_none(value):
    assert read_header(jpeg(value)).orientation == 1


def test_damaged_tags_count_as_none():
    data = jpeg(6)
    begin = data.index(b"Exif") + 6
    for place in range(begin, begin + 26):
        read_header(data[:place] + b"\xff" + data[place + 1 :])


GREY = Image.fromarray(PIXELS[..., 1])
COLOUR = Image.fromarray(PIXELS)
ALPHA = Image.fromarray(np.dstack([PIXELS, np.full(PIXELS.shape[:2], 90, np.uint8)]))
PALETTE = COLOUR.convert("P", palette=Image.Palette.ADAPTIVE)
DEEP = np.uint16(PIXELS[..., 1]) * 257
KINDS = {
    "grey JPEG": saved(GREY, "JPEG"),
    "progressive JPEG": saved(COLOUR, "JPEG", progressive=True),
    "CMYK JPEG": saved(COLOUR.convert("CMYK"), "JPEG", quality=100),
    "grey PNG": saved(GREY, "PNG"),
    "grey PNG with alpha": saved(GREY.convert("LA"), "PNG"),
    "PNG with alpha": saved(ALPHA, "PNG"),
    "PNG with a palette": saved(PALETTE, "PNG"),
    "PNG of one bit": saved(GREY.convert("1"), "PNG"),
    "16-bit PNG": cv2.imencode(".png", np.uint16(PIXELS[..., ::-1]) * 257)[1].tobytes(),
    "animated PNG": saved(COLOUR, "PNG", save_all=True, append_images=[ALPHA.convert("RGB")]),
    "GIF": saved(PALETTE, "GIF"),
    "animated GIF": saved(PALETTE, "GIF", save_all=True, append_images=[GREY.convert("P")]),
    "BMP": saved(COLOUR, "BMP"),
    "BMP with a palette": saved(PALETTE, "BMP"),
    "grey BMP": saved(GREY, "BMP"),
    "BMP with alpha": saved(ALPHA, "BMP"),
    "WebP": saved(COLOUR, "WEBP"),
    "WebP with alpha": saved(ALPHA, "WEBP", lossless=True, exact=True),
    "animated WebP": saved(COLOUR, "WEBP", save_all=True, append_images=[GREY.convert("RGB")]),
    "TIFF": saved(COLOUR, "TIFF", compression="tiff_lzw"),
    "TIFF with a palette": saved(PALETTE, "TIFF"),
    "16-bit TIFF": saved(Image.fromarray(DEEP), "TIFF"),
    "AVIF": saved(COLOUR, "AVIF"),
}
GREY_KINDS = ("grey", "16-bit TIFF")


@pytest.mark.parametrize("kind", KINDS)
def test_every_decoder_sees_the_same_of_every_format_and_mode(kind):
    data = KINDS[kind]
    result = upright(data)
    # What is encoded again may not differ at all.
    tolerance = ROUNDING if result[:2] == b"\xff\xd8" else 0
    first, *others = seen_by_all(result)
    for pixels in others:
        np.testing.assert_allclose(pixels, first, atol=tolerance)
    np.testing.assert_allclose(decode(data), first, atol=tolerance)
    if "one bit" not in kind:
        grey = kind.startswith(GREY_KINDS)
        expected = np.repeat(PIXELS[..., 1:2], 3, axis=2) if grey else PIXELS
        assert np.abs(first.astype(int) - expected).mean() < 16


def test_heic_is_read_where_its_package_is_installed():
    heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    heif.from_pillow(COLOUR).save(file, quality=100)
    assert readable("IMG_0001.HEIC")
    assert np.abs(decode(file.getvalue()).astype(int) - PIXELS).mean() < 16


def test_without_its_package_heic_is_counted_with_the_way_to_it(monkeypatch):
    monkeypatch.setattr(encoded, "formats", lambda: ("JPEG", "PNG"))
    assert not readable("a.HEIC")
    assert (
        unread("a.HEIC") == "files that end in .heic (pip install 'faceattr_tf[heif]' reads them)"
    )


def test_a_lossy_copy_is_a_jpeg_of_what_has_to_be_encoded_alone():
    data = jpeg(6)
    copy = upright(data, lossy=True)
    assert copy[:2] == b"\xff\xd8"
    np.testing.assert_allclose(decode(copy).mean(), decode(data).mean(), atol=1)
    assert upright(KINDS["PNG with alpha"], lossy=True) is KINDS["PNG with alpha"]


def huge(format):
    """A header of 50,000 x 50,000 pixels with nothing behind it."""
    if format == "PNG":
        head = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
        chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
        return b"\x89PNG\r\n\x1a\n" + chunk + bytes(4) + b"IDAT" + bytes(4)
    if format == "GIF":
        return b"GIF89a" + struct.pack("<HH", 50_000, 50_000) + bytes(3) + b"," + bytes(9) + b"\2;"
    head = struct.pack("<IiiHHIIiiII", 40, 50_000, 50_000, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head


@pytest.mark.parametrize("format", ["PNG", "GIF", "BMP"])
def test_a_huge_header_is_refused_before_anything_is_decoded(format, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", None)
    for function in (read_header, upright, decode):
        with pytest.raises(UserError, match="pixels by its header"):
            function(huge(format))


def test_the_limit_is_the_callers():
    assert read_header(KINDS["BMP"], 240).width == 20
    with pytest.raises(UserError, match=r"20 x 12 pixels by its header, .* --max_pixels=239"):
        upright(KINDS["BMP"], 239)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image",
        b"\xff\x0a" + bytes(40),
        b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40),
        b"%PDF-1.7",
    ],
    ids=["nothing", "text", "JPEG XL", "JPEG XL in a box", "PDF"],
)
def test_other_formats_are_refused_by_what_they_begin_with(data):
    with pytest.raises(UserError, match="not an image of a format that is read") as error:
        upright(data)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["WebP", "TIFF", "GIF", "BMP with a palette", "AVIF"])
def test_what_is_cut_off_does_not_decode(kind):
    with pytest.raises(UserError, match="not an image"):
        upright(KINDS[kind][: len(KINDS[kind]) // 2])


def test_a_folder_is_listed_through_links_but_not_in_circles(tmp_path):
    other = tmp_path / "other"
    root = tmp_path / "root"
    (root / "deep").mkdir(parents=True)
    other.mkdir()
    for place in ("a.JPG", "b.jfif", "c.TIF", "deep/d.jpe", "note.txt", "e.jxl", "._a.JPG"):
        (root / place).write_bytes(b"12")
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "a.jpg").write_bytes(b"")
    (other / "f.webp").write_bytes(b"")
    (root / "linked").symlink_to(other)
    (root / "deep" / "up").symlink_to(root)
    (root / "dangling.png").symlink_to(tmp_path / "nothing")
    folder = ImageFolder(root)
    assert list(folder.sizes) == ["a.JPG", "b.jfif", "c.TIF", "deep/d.jpe", "linked/f.webp"]
    assert folder.sizes["a.JPG"] == 2
    assert folder.left_out == {
        "hidden or system files and folders": 2,
        "files that end in .txt": 1,
        "files that end in .jxl": 1,
        "links to a folder that they lie in": 1,
        "links to files that are not there": 1,
    }


def test_an_archive_is_listed_without_what_macos_adds(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("img/1.jpg", "__MACOSX/img/._1.jpg", "img/.DS_Store", "img/list.csv"):
            archive.writestr(name, b"1")
    listed = ImageArchive(tmp_path / "a.zip", "img")
    assert list(listed.sizes) == ["1.jpg"]
    assert listed.left_out == {
        "hidden or system files and folders": 2,
        "files that end in .csv": 1,
    }
