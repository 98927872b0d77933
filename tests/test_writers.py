"""What is written besides the terminal: TensorBoard, Weights & Biases, the learning curves."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import RecordWriter

from digits_jax.errors import UserError
from digits_jax.runs import curves, writers

ROWS = [
    {
        "epoch": epoch, "step": 10 * epoch, "train/learning_rate": rate, "train/loss": 1 / epoch, "train/accuracy": 0.9,
        "test/loss": 1.1 / epoch, "test/accuracy": 0.5 + 0.1 * epoch, "train/seconds": 2.0,
    }
    for epoch, rate in ((1, 0.01), (2, 0.1), (3, 0.1), (4, 0.01))
]  # fmt: skip


def read_events(folder: Path) -> list[tuple[int, str, float | str]]:
    """All scalars and texts of the event files in a folder: length, its checksum, the record, its checksum."""
    assert RecordWriter  # the format read here is what this class writes
    found: list[tuple[int, str, float | str]] = []
    for path in sorted(folder.iterdir()):
        content, position = path.read_bytes(), 0
        while position < len(content):
            length = int.from_bytes(content[position : position + 8], "little")
            event = event_pb2.Event.FromString(content[position + 12 : position + 12 + length])
            for value in event.summary.value:
                texts = [text.decode() for text in value.tensor.string_val]
                found.append((event.step, value.tag, texts[0] if texts else value.simple_value))
            position += 12 + length + 4
    return found


def test_tensorboard_has_each_row_once_after_a_resume(tmp_path: Path) -> None:
    first = writers.TensorBoardWriter(tmp_path / "tensorboard", {"seed": 3})
    for count in (0, 1, 2):
        first.write(ROWS[:count])
    first.close()
    for path in (tmp_path / "tensorboard").iterdir():
        path.rename(path.with_name("events.out.tfevents.0"))  # its real name has the second it was made in
    second = writers.TensorBoardWriter(tmp_path / "tensorboard", {"seed": 3})
    for count in (2, 3, 4):
        second.write(ROWS[:count])
    second.close()
    events = read_events(tmp_path / "tensorboard")
    accuracy = [(step, value) for step, tag, value in events if tag == "test/accuracy"]
    assert accuracy == [(row["step"], pytest.approx(row["test/accuracy"])) for row in ROWS]
    (config,) = [value for _, tag, value in events if tag.startswith("config")]
    assert '"seed": 3' in str(config)
    assert {tag for _, tag, value in events if isinstance(value, float)} == set(ROWS[0]) - {"epoch", "step"}


class FakeWandb:
    """Keeps what it is given, and counts steps as W&B does."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict]] = []
        self.settings: dict[str, Any] = {}

    def init(self, **settings: Any) -> "FakeWandb":
        self.settings = settings
        return self

    @property
    def step(self) -> int:
        return self.logged[-1][0] + 1 if self.logged else 0

    def log(self, values: dict, *, step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.settings["finished"] = True


def test_wandb_goes_on_in_the_same_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=fake.init))
    for start in (0, 2):
        writer = writers.WandbWriter(project="p", run_id="abc", name="vgg", config={"seed": 0}, folder=tmp_path)
        for count in range(start, start + 3):
            writer.write(ROWS[:count])
        writer.close()
    assert [step for step, _ in fake.logged] == [10, 20, 30, 40]
    assert fake.logged[0][1]["test/accuracy"] == ROWS[0]["test/accuracy"]
    assert (fake.settings["id"], fake.settings["resume"], fake.settings["finished"]) == ("abc", "allow", True)


def test_wandb_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"--wandb_project=p needs Weights & Biases: ./launch.sh setup wandb"):
        writers.WandbWriter(project="p", run_id="abc", name="vgg", config={}, folder=tmp_path)


@pytest.mark.parametrize("count", [1, 4])
def test_curves_are_a_picture(tmp_path: Path, count: int) -> None:
    path = tmp_path / "curves.png"
    curves.plot_curves(ROWS[:count], best_epoch=count, selected_by="test/accuracy", title="vgg", path=path)
    with Image.open(path) as image:
        assert image.size == (1500, 630)
        assert len(np.unique(np.asarray(image))) > 50
