"""Decoding of picture files."""

import importlib.util
import io
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from digits_jax.apps.reader import decode_picture, find_digits, list_pictures, read_picture, to_pixels
from digits_jax.errors import UserError
from digits_jax.studies.drawings import draw


def three() -> Image.Image:
    return draw("3", size=(80, 90), paper="#ffffff", ink="#000000", height=60, width=5)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def sixteen_bits() -> Image.Image:
    return Image.fromarray(np.asarray(three().convert("L")).astype(np.uint16) * 257)


def transparent(ink: int) -> Image.Image:
    """Returns ink of one gray level on a transparent background, whose color must not matter."""
    alpha = 255 - np.asarray(three().convert("L"))
    color = np.where(alpha[..., None] > 0, ink, 255 - ink) * np.ones(3)
    return Image.fromarray(np.dstack([color, alpha]).astype(np.uint8))


FILES = {
    "png": encoded(three()),
    "jpeg": encoded(three(), "JPEG"),
    "cmyk": encoded(three().convert("CMYK"), "JPEG"),
    "black and white": encoded(three().convert("1", dither=Image.Dither.NONE)),
    "palette": encoded(three().convert("P")),
    "gray with alpha": encoded(three().convert("LA")),
    "bmp": encoded(three(), "BMP"),
    "gif": encoded(three(), "GIF"),
    "webp": encoded(three(), "WEBP"),
    "ppm": encoded(three(), "PPM"),
    "tiff": encoded(three(), "TIFF"),
    "compressed tiff": encoded(three(), "TIFF", compression="tiff_lzw"),
    "fax": encoded(three().convert("1", dither=Image.Dither.NONE), "TIFF", compression="group4"),
    "tiff of 16 bits": encoded(sixteen_bits(), "TIFF"),
    "16 bits": encoded(sixteen_bits()),
    "black on nothing": encoded(transparent(0)),
    "white on nothing": encoded(transparent(255)),
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_the_same_three_in_any_file(content: bytes) -> None:
    picture = decode_picture(content, "it")
    assert picture.frames == 1
    assert picture.pixels.shape == (90, 80, 4)
    [digit] = find_digits(picture.pixels)
    [wanted] = find_digits(to_pixels(three()))
    assert np.abs(digit.image.astype(int) - wanted.image).mean() < 12


def test_a_phone_that_was_held_sideways() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 90 degrees clockwise
    turned = encoded(three().rotate(90, expand=True), "JPEG", exif=exif)
    [digit] = find_digits(decode_picture(turned, "it").pixels)
    [wanted] = find_digits(to_pixels(three()))
    assert np.abs(digit.image.astype(int) - wanted.image).mean() < 12


@pytest.mark.parametrize("format", ["GIF", "TIFF"])
def test_the_first_of_several_frames(format: str) -> None:
    content = encoded(
        three(), format, save_all=True, append_images=[Image.new("RGB", (80, 90), color) for color in ("red", "blue")]
    )
    picture = decode_picture(content, "it")
    assert picture.frames == 3
    assert len(find_digits(picture.pixels)) == 1


def test_a_large_picture_is_reduced() -> None:
    assert decode_picture(encoded(Image.new("L", (3000, 1500))), "it").pixels.shape == (512, 1024, 4)


def bomb() -> bytes:
    """Returns a PNG of 30,000 x 30,000 pixels in 100 bytes, without its rows."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0" * 100)))
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it.png is empty: expected a picture"),
        (
            b"no picture",
            "it.png is not a picture in a known format: expected one of PNG, JPEG, GIF, BMP, WEBP, PPM, TIFF",
        ),
        (encoded(three())[:-200], r"it.png cannot be decoded \(.+\): expected an undamaged picture"),
        (encoded(three(), "PCX"), "it.png is not a picture in a known format"),
        (encoded(three(), "TIFF")[:-200], r"it.png cannot be decoded \(.+\): expected an undamaged picture"),
        (bomb(), r"it.png is too large \(.*900000000 pixels.*\): expected at most 64 megapixels"),
        (encoded(Image.new("1", (9000, 9000))), r"it.png is too large \(9000x9000 pixels\)"),
        (bytes(50_000_001), "it.png is larger than 50 MB: expected a smaller picture"),
    ],
    ids=["empty", "text", "truncated", "pcx", "truncated tiff", "bomb", "large", "huge"],
)
def test_an_unusable_file_is_a_one_line_error(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "it.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        read_picture(str(path))
    assert "\n" not in str(raised.value)


def test_libtiff_prints_nothing(capfd: pytest.CaptureFixture) -> None:
    content = bytearray(FILES["compressed tiff"])
    content[100:300] = bytes(200)
    with pytest.raises(UserError, match=r"^it cannot be decoded \(.+\): expected an undamaged picture$"):
        decode_picture(bytes(content), "it")
    os.write(2, b"and afterwards others print")
    assert capfd.readouterr().err == "and afterwards others print"


def test_heic_needs_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = "it needs the extra 'heic': pip install 'digits_jax[heic]' or ./launch.sh setup heic"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        decode_picture(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it")


def test_heic() -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    content = encoded(three(), "HEIF", save_all=True, append_images=[three()])
    picture = decode_picture(content, "it")
    assert picture.frames == 2
    [digit] = find_digits(picture.pixels)
    [wanted] = find_digits(to_pixels(three()))
    assert np.abs(digit.image.astype(int) - wanted.image).mean() < 12
    for damaged in (content[:40], content[:-900]):
        with pytest.raises(UserError, match=r"^it (cannot be decoded|is not a picture in a known format)[^\n]+$"):
            decode_picture(damaged, "it")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"it.png cannot be read \(No such file or directory\): expected a picture"):
        read_picture(str(tmp_path / "it.png"))


def test_a_directory_stands_for_its_pictures(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "notes.txt", "c.tif", "d.HEIC"):
        (tmp_path / name).touch()
    assert list_pictures(str(tmp_path)) == [str(tmp_path / name) for name in ("a.png", "b.JPG", "c.tif", "d.HEIC")]
    assert list_pictures("-") == ["-"]
    assert list_pictures("c") == ["c"]
    (tmp_path / "empty").mkdir()
    [empty] = list_pictures(str(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"empty contains no pictures: expected files that end in .png, .jpg"):
        read_picture(empty)


@pytest.mark.slow
def test_damaged_files_crash_nothing() -> None:
    """A thousand files with bytes changed, truncated, inserted or removed."""
    random = np.random.default_rng(0)
    whole = [*FILES.values()]
    outcomes = {"read": 0, "refused": 0}
    for number in range(1000):
        content = bytearray(whole[number % len(whole)])
        for _ in range(random.integers(1, 20)):
            # Half of the damage is to the header, with its sizes and modes.
            offset = int(random.integers(min(len(content), 100) if random.random() < 0.5 else len(content)))
            match random.integers(4):
                case 0:
                    content[offset] = random.integers(256)
                case 1:
                    content[offset : offset + random.integers(8)] = b""
                case 2:
                    content[offset:offset] = random.bytes(4)
                case _ if random.random() < 0.1:
                    del content[max(offset, 8) :]
            if not content:
                break
        try:
            find_digits(decode_picture(bytes(content), "it").pixels)
            outcomes["read"] += 1
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017
            outcomes["refused"] += 1
    assert outcomes["read"] > 50
    assert outcomes["refused"] > 300
