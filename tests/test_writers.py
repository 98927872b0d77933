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


def read_events(folder: Path) -> list[event_pb2.Event]:
    """What TensorBoard shows of a folder's event files: each record is its length, a checksum, an event, a checksum."""
    assert RecordWriter  # the format read here is what this class writes
    found: list[event_pb2.Event] = []
    for path in sorted(folder.iterdir()):
        content, position = path.read_bytes(), 0
        while position < len(content):
            length = int.from_bytes(content[position : position + 8], "little")
            event = event_pb2.Event.FromString(content[position + 12 : position + 12 + length])
            if event.session_log.status == event_pb2.SessionLog.START:
                found = [earlier for earlier in found if earlier.step < event.step]
            found.append(event)
            position += 12 + length + 4
    return found


def scalars(folder: Path, tag: str) -> dict[int, tuple[float, float]]:
    """By step the value and the wall time; each step once."""
    events = [(event, value) for event in read_events(folder) for value in event.summary.value if value.tag == tag]
    assert len({event.step for event, _ in events}) == len(events)
    return {event.step: (value.simple_value, event.wall_time) for event, value in events}


def write_to_tensorboard(folder: Path, *counts: int, num_written: int) -> None:
    writer = writers.TensorBoardWriter(folder, {"seed": 3}, num_written=num_written)
    for count in counts:
        writer.write(ROWS[:count])
    writer.close()


def test_tensorboard_keeps_the_wall_time_of_what_a_resumed_run_has(tmp_path: Path) -> None:
    write_to_tensorboard(tmp_path / "tb", 0, 1, 2, 3, num_written=0)
    before = scalars(tmp_path / "tb", "test/accuracy")
    # The third row was not in metrics.jsonl yet; or an earlier checkpoint was restored.
    for num_written, counts in ((2, (2,)), (2, (2, 3, 4)), (4, (1, 2, 3)), (3, (4,))):
        write_to_tensorboard(tmp_path / "tb", *counts, num_written=num_written)
        after = scalars(tmp_path / "tb", "test/accuracy")
        kept = min(num_written, counts[0])
        assert [after[10 * n] for n in range(1, kept + 1)] == [before[10 * n] for n in range(1, kept + 1)]
        if counts[-1] > kept:
            assert {step: value for step, (value, _) in after.items()} == {
                row["step"]: pytest.approx(row["test/accuracy"]) for row in ROWS[: counts[-1]]
            }
            assert all(after[10 * n][1] > before[10][1] for n in range(kept + 1, counts[-1] + 1))
        before = after
    events = read_events(tmp_path / "tb")
    (config,) = [v for event in events for v in event.summary.value if v.tag.startswith("config")]
    assert '"seed": 3' in config.tensor.string_val[0].decode()
    tags = {value.tag for event in events for value in event.summary.value} - {config.tag}
    assert tags == set(ROWS[0]) - {"epoch", "step"}


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


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_curves_where_nothing_or_everything_is_correct(tmp_path: Path, accuracy: float) -> None:
    rows = [{**row, "train/accuracy": accuracy, "test/accuracy": accuracy} for row in ROWS]
    curves.plot_curves(rows, best_epoch=1, selected_by="test/accuracy", title="vgg", path=tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists()  # without a warning, which is an error here
