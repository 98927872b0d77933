"""A trained model that reads pictures, as a command and as an object."""

import importlib.util
import io
import json
import re
import subprocess
import sys
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from absl.testing import flagsaver
from ml_collections import ConfigDict
from PIL import Image

from digits_jax import load_model
from digits_jax import train_loop as train
from digits_jax.apps import predict, reader
from digits_jax.apps.reader import DigitReader, Page, Reading, digit_reader, load_reader, to_pixels
from digits_jax.apps.reader.outliers import fit_detector, with_features
from digits_jax.apps.reader.pictures import Picture
from digits_jax.apps.reader.segmentation import Mark
from digits_jax.apps.reader.strokes import LETTERS, letter_images
from digits_jax.data import Dataset
from digits_jax.errors import ConfigError, UserError
from digits_jax.runs.trained_model import TrainedModel
from digits_jax.studies.drawings import draw

pytestmark = pytest.mark.usefixtures("parsed_flags")


@pytest.fixture
def run(
    small_config: ConfigDict,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_locations: Callable[[str], None],
) -> Path:
    """The directory of a finished run, with a cache of its own; the detector is fitted to few letters.

    Its `run.json` names locations of the data, which are not used.
    """
    monkeypatch.setattr(digit_reader, "_NUM_LETTERS", 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    record_locations(str(tmp_path / "elsewhere"))
    train.train_and_evaluate(small_config, tmp_path / "run")
    assert str(tmp_path / "elsewhere") in (tmp_path / "run/run.json").read_text()
    return tmp_path / "run"


def picture(symbols: str) -> Image.Image:
    return draw(symbols, size=(200, 100), paper="#ffffff", ink="#000000", height=80, width=7)


class FakeReader:
    """A fake reader that predicts a seven for everything, and rejects the second digit of a picture."""

    def read(self, pixels: np.ndarray) -> Page:
        sure = np.full(10, 0.01, np.float32)
        sure[7] = 0.91
        count = int((pixels[..., 0] < 0.5).any(axis=0).sum() > 60) + int((pixels[..., 0] < 0.5).any())
        image = np.zeros((28, 28), np.uint8)
        digits = [Reading(image, (i, 2, 3, 4), sure, "like no digit" if i else None) for i in range(count)]
        return Page(digits, [Mark("-", (4, 3, 6, 4))] if count else [])


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Any:
    """A function that calls the command and returns its exit code and output."""
    monkeypatch.setattr(reader, "load_reader", lambda workdir, **_: FakeReader())

    def call(*arguments: str, **flags: Any) -> tuple[int, str, str]:
        with flagsaver.flagsaver(workdir="runs/x", **flags):
            code = predict.main(["predict", *arguments])
        return code, *capsys.readouterr()

    return call


def test_a_line_for_each_digit(command: Any, tmp_path: Path) -> None:
    for name, symbols in (("a", "7"), ("b", "77"), ("c", "")):
        picture(symbols).save(tmp_path / f"{name}.png")
    code, out, err = command(str(tmp_path))
    assert (code, err) == (0, "")
    assert out.replace(f"{tmp_path}/", "") == (
        "a.png: 7  91.00%   0   1.00%   1   1.00%\n"
        "b.png: 7  91.00%   0   1.00%   1   1.00%\n"
        "b.png: ? like no digit (7  91.00%   0   1.00%   1   1.00%)\n"
        "c.png: ? no digit found\n"
    )


def test_json_and_files_that_cannot_be_read(command: Any, tmp_path: Path) -> None:
    picture("7").save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("text")
    picture("7").save(tmp_path / "c.gif", save_all=True, append_images=[Image.new("RGB", (200, 100), "red")])
    code, out, err = command(*(str(tmp_path / name) for name in ("a.png", "b.png", "c.gif")), json=True)
    assert code == 1
    expected = "expected one of PNG, JPEG, GIF, BMP, WEBP, PPM, TIFF, HEIC"
    refused = f"{tmp_path}/b.png is not a picture in a known format: {expected}"
    assert err == f"error: {refused}\nnote: {tmp_path}/c.gif has 2 frames; only the first is read\n"
    first, second, third = map(json.loads, out.splitlines())
    assert first["image"] == f"{tmp_path}/a.png"
    assert first["warning"] is None
    [digit] = first["digits"]
    assert (digit["digit"], digit["warning"], digit["box"]) == (7, None, [0, 2, 3, 4])
    assert [top["digit"] for top in digit["top"]] == [7, 0, 1]
    assert digit["top"][0]["probability"] == pytest.approx(0.91)
    assert first["marks"] == [{"symbol": "-", "box": [4, 3, 6, 4]}]
    assert "numbers" not in first
    assert second == {"image": f"{tmp_path}/b.png", "error": refused}
    assert len(third["digits"]) == 1


def test_numbers_instead_of_digits(command: Any, tmp_path: Path) -> None:
    picture("7").save(tmp_path / "a.png")
    assert command(str(tmp_path / "a.png"), numbers=True) == (0, f"{tmp_path}/a.png: 7-  91.00%\n", "")
    [number] = json.loads(command(str(tmp_path / "a.png"), numbers=True, json=True)[1])["numbers"]
    assert number == {"text": "7-", "box": [0, 2, 6, 4], "probability": pytest.approx(0.91), "warning": None}


def test_a_directory_without_pictures_does_not_stop_the_others(command: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    picture("7").save(tmp_path / "a.png")
    code, out, err = command(*(str(tmp_path / name) for name in ("a.png", "empty", "a.png")))
    assert code == 1
    assert out == 2 * f"{tmp_path}/a.png: 7  91.00%   0   1.00%   1   1.00%\n"
    assert err.startswith(f"error: {tmp_path}/empty contains no pictures: expected files that end in .png, ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("json", [False, True])
def test_each_picture_is_printed_as_it_is_read(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, json: bool
) -> None:
    """A pipe or file is buffered: what is not flushed is lost if the command is killed."""
    picture("7").save(tmp_path / "a.png")
    read, printed = reader.read_picture, []

    def look_and_read(file: str) -> Picture:
        printed.append((tmp_path / "out").read_text())
        return read(file)

    monkeypatch.setattr(reader, "read_picture", look_and_read)
    with (tmp_path / "out").open("w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        command(*[str(tmp_path / "a.png")] * 2, json=json)
    assert [text.count("\n") for text in printed] == [0, 1]


def test_the_contact_sheet_keeps_no_pixels(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture("7").save(tmp_path / "a.png")
    read = reader.read_picture
    seen: list[Any] = []

    def read_and_watch(file: str) -> Picture:
        assert all(pixels() is None for pixels in seen[:-1])  # the last ones are in use until this returns
        found = read(file)
        seen.append(weakref.ref(found.pixels))
        return found

    monkeypatch.setattr(reader, "read_picture", read_and_watch)
    assert command(*[str(tmp_path / "a.png")] * 4, show=str(tmp_path / "seen.png"))[0] == 0
    assert len(seen) == 4


def test_an_extra_that_is_not_installed(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = "reading pictures needs the extra 'apps': pip install 'digits_jax[apps]' or ./launch.sh setup apps"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        command("a.png")


def test_packages_import_nothing_large() -> None:
    code = (
        "import sys, digits_jax.apps.predict, digits_jax.apps.evaluate, digits_jax.apps.export; "
        "print({'jax', 'scipy', 'PIL', 'matplotlib'} & sys.modules.keys())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


def test_standard_input_and_the_contact_sheet(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    picture("77").save(file, "JPEG")
    file.seek(0)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
    code, out, _ = command("-", show=str(tmp_path / "seen.png"))
    assert code == 0
    assert out.startswith("-: 7  91.00%")
    with Image.open(tmp_path / "seen.png") as seen:
        assert seen.width > seen.height > 100
    with pytest.raises(UserError, match=r"nowhere/seen.png cannot be written \(No such file or directory\)"):
        command(str(tmp_path / "seen.png"), show=str(tmp_path / "nowhere/seen.png"))


def test_many_pictures_are_shown_in_several_files(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("digits_jax.apps.reader.contact_sheet._FILE_ROWS", 2)
    picture("7").save(tmp_path / "a.png")
    (tmp_path / "seen").mkdir()
    command(*[str(tmp_path / "a.png")] * 5, show=str(tmp_path / "seen/x.png"))
    heights = {}
    for path in (tmp_path / "seen").iterdir():
        with Image.open(path) as seen:
            heights[path.name] = seen.height
    assert heights.keys() == {"x.png", "x-2.png", "x-3.png"}
    assert heights["x.png"] == heights["x-2.png"] > heights["x-3.png"]


def test_a_contact_sheet_names_its_pictures() -> None:
    def draw_named(name: str) -> np.ndarray:
        return np.asarray(reader.draw_cell(to_pixels(picture("7")), [], name))

    nameless, short = draw_named("a\n\udc80.png"), draw_named("a??.png")
    np.testing.assert_array_equal(nameless, short)
    rows = np.flatnonzero((draw_named("b.png") != draw_named("c.png")).any((1, 2)))
    assert 144 < rows.min() <= rows.max() < 168  # below the picture
    long = draw_named(f"{'long' * 30}_1.png")
    assert long.shape == short.shape
    assert (long != draw_named(f"{'long' * 30}_2.png")).any()
    assert (long[144:, -2:] == 255).all()  # it ends in time


def test_mistakes_in_the_command(command: Any) -> None:
    with pytest.raises(ConfigError, match="no picture is given: expected files, directories, or - for standard"):
        command()
    with pytest.raises(ConfigError, match=r"--show is 'seen.jpg': expected a PNG file, such as seen.png"):
        command("a.png", show="seen.jpg")


def test_the_reader_is_cached(
    run: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    load_reader = partial(reader.load_reader, data_dir=str(data_dir))
    first = load_reader(str(run), checkpoint="best")
    assert capsys.readouterr().err == "fitting the outlier detector (once, about half a minute)\n"
    second = load_reader(str(run), checkpoint="best")
    assert capsys.readouterr().err == ""
    assert second.description == first.description
    assert first.description.startswith("linear trained on optical_digits for 7 steps, ")
    pixels = to_pixels(picture("31"))
    for a, b in zip(first.read(pixels).digits, second.read(pixels).digits, strict=True):
        np.testing.assert_array_equal(a.probabilities, b.probabilities)
        assert (a.box, a.warning) == (b.box, b.warning)
    # The cache is for this run and its current checkpoints only, and is rebuilt if it is damaged.
    [cached] = (run.parent / "cache").rglob("*.npz")
    content = cached.read_bytes()
    cached.write_bytes(content.replace(b"kernel", b"kernal"))
    load_reader(str(run), checkpoint="best")
    assert cached.read_bytes() == content
    (run.parent / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(run.parent / "file"))
    load_reader(str(run), checkpoint="latest")
    first, second, *_, warning = capsys.readouterr().err.splitlines()
    assert first == second == "fitting the outlier detector (once, about half a minute)"
    assert re.fullmatch(r"warning: .*file/.*npz cannot be written \(Not a directory\): the next .* slow", warning)
    assert not (run.parent / "elsewhere").exists()


def test_without_the_training_images(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def nowhere(*_: object, **__: object) -> None:
        raise UserError("they are nowhere")

    monkeypatch.setattr("digits_jax.data.load_configured", nowhere)
    digit_reader = load_reader(str(run), checkpoint="best")
    assert (
        "warning: inputs that are not digits may be accepted, without training images: they" in capsys.readouterr().err
    )
    assert [reading.warning for reading in digit_reader.read(to_pixels(picture("3"))).digits] == [None]
    square = Image.new("RGB", (100, 100), "white")
    square.paste("#000000", (30, 20, 70, 80))
    [reading] = digit_reader.read(to_pixels(square)).digits
    assert reading.warning == "a solid shape, not pen strokes"
    assert digit_reader.read(to_pixels(Image.new("RGB", (100, 100)))) == ([], [])


def test_a_reader_uses_no_test_time_augmentation(run: Path, small_dataset: Dataset) -> None:
    one = load_model(run)
    several = {**one.run, "config": {**one.run["config"], "test_views": "shifts"}}
    model = TrainedModel(several, one.variables, step=one.step, metrics={})
    images = small_dataset.arrays.test_images[:20, ..., 0]
    logits, features = with_features(model)(images)
    np.testing.assert_allclose(logits, one.logits(images), rtol=1e-5, atol=1e-5)
    assert features.shape == (20, 784)
    assert not np.allclose(model.predict(images), one.predict(images), atol=1e-3)


@pytest.mark.parametrize("scale", [0.01, 10.0])  # all classes are about as likely, or one is
def test_probabilities_are_those_of_labels_that_are_not_smoothed(
    run: Path, small_dataset: Dataset, scale: float
) -> None:
    one = load_model(run)
    variables = jax.tree.map(lambda array: scale * array, one.variables)
    images = small_dataset.arrays.test_images[:20, ..., 0]
    found = []
    for smoothing in (0.0, 0.5):
        config = {**one.run["config"], "loss": {**one.run["config"]["loss"], "label_smoothing": smoothing}}
        model = TrainedModel({**one.run, "config": config}, variables, step=one.step, metrics={})
        found.append(DigitReader(model, None).predict(images)[0])
    plain, unsmoothed = found
    np.testing.assert_allclose(unsmoothed.sum(axis=1), 1, atol=1e-5)
    if scale > 1:
        assert 0.999 < unsmoothed.max() < 0.9995
        assert unsmoothed.min() > 0.5e-4
    else:
        np.testing.assert_allclose(0.5 * unsmoothed + 0.05, plain, atol=1e-4)


def test_outliers_are_far_from_digits() -> None:
    """In ten dimensions: digits along the first axes, letters along the last."""
    random = np.random.default_rng(0)

    def along(axis: int, count: int) -> np.ndarray:
        return (5 * np.eye(10)[axis] + random.normal(0, 0.5, (count, 10))).astype(np.float32)

    detector = fit_detector(np.concatenate([along(0, 1000), along(1, 1000)]), along(9, 100))
    assert detector.is_outlier(along(0, 1000)).mean() < 0.03
    assert detector.is_outlier(along(9, 100)).mean() > 0.97  # letters
    assert detector.is_outlier(along(5, 100)).mean() > 0.97  # neither
    assert detector.is_outlier(np.zeros((0, 10), np.float32)).shape == (0,)


def test_letter_images_are_reproducible() -> None:
    letters = letter_images(2)
    assert letters.shape == (2 * len(LETTERS), 28, 28)
    np.testing.assert_array_equal(letters, letter_images(2))
    assert (letters[0] != letters[1]).any()
