"""The quick form: three kills, twelve damages. `python -m tests.chaos` has the full one."""

import random
import signal
import time
from pathlib import Path

import pytest

from tests.chaos import trials

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """With `undisturbed`, a run that was left alone, and `original`, one that was stopped in its last epoch."""
    folder = tmp_path_factory.mktemp("chaos")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
        trials.finish(folder / "undisturbed")
        trials.wait_for_epochs(folder / "original", 2)
    return folder


@pytest.mark.parametrize("signum", [signal.SIGKILL] * 3 + [signal.SIGTERM, signal.SIGINT])
def test_killed_at_any_moment_it_ends_the_same(
    folder: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signum: signal.Signals
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    draw = random.Random(time.time())
    where = [trials.kill(tmp_path, draw, signum, seconds=10) for _ in range(draw.choice((1, 2)))]
    trials.finish(tmp_path)
    assert trials.outcome(tmp_path) == trials.outcome(folder / "undisturbed"), where


@pytest.mark.parametrize("damage", trials.DAMAGES)
def test_damaged_checkpoints_are_found_and_it_ends_the_same(
    folder: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    draw = random.Random(time.time())
    for number in range(3):
        found, what = trials.damage_and_go_on(folder / "original", tmp_path / str(number), damage, draw)
        assert found, what
        assert trials.outcome(tmp_path / str(number)) == trials.outcome(folder / "undisturbed"), what
