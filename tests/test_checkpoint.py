"""Which checkpoints are kept, and that they come back as they were."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from digits_jax.checkpoint import Checkpoints, Progress
from digits_jax.errors import UserError
from digits_jax.metrics import Metrics
from digits_jax.train_step import TrainState


def progress(step: int) -> Progress:
    state = TrainState(
        seed=jnp.uint32(0),
        step=jnp.asarray(step, jnp.int32),
        params={"w": jnp.full(3, step / 7)},
        batch_stats={},
        opt_state=(),
    )
    metrics = Metrics(jnp.asarray(step / 3, jnp.float32), jnp.asarray(step, jnp.int32), jnp.asarray(9, jnp.int32))
    return Progress(state=state, metrics=metrics, seconds=0.125 * step, rows=[{"step": step, "loss": 0.1 + 0.2}])


def kept(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir())


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.restore(progress(0)) is None
    checkpoints.save(progress(5), score=0.5)
    restored = Checkpoints(tmp_path).restore(progress(0))
    assert restored is not None
    assert restored.rows == progress(5).rows
    assert restored.seconds == progress(5).seconds
    for a, b in zip(jax.tree.leaves(restored[:2]), jax.tree.leaves(progress(5)[:2]), strict=True):
        assert a.dtype == b.dtype
        assert (a == b).all()


@pytest.mark.parametrize(
    ("scores", "steps"),
    [
        ({1: 0.5, 2: 0.9, 3: 0.7, 4: 0.6, 5: 0.8}, [2, 4, 5]),  # a worse one never pushes out the latest
        ({1: 0.5, 2: 0.6, 3: 0.7}, [2, 3]),
        ({1: 0.9, 2: 0.9, 3: 0.9, 4: 0.9}, [1, 3, 4]),  # among equals the first is the best
        ({1: 0.9, 2: None, 3: 0.5, 4: 0.4}, [1, 3, 4]),  # one saved in mid-epoch is kept only while it is the latest
        ({1: 0.9, 2: None}, [1, 2]),
    ],
)
def test_the_latest_two_and_the_best_are_kept(
    tmp_path: Path, scores: dict[int, float | None], steps: list[int]
) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step, score in scores.items():
        checkpoints.save(progress(step), score=score)
    assert kept(tmp_path) == steps
    latest = Checkpoints(tmp_path).restore(progress(0))
    assert latest is not None
    assert int(latest.state.step) == max(scores)


def test_an_older_checkpoint_by_its_step(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step, score in {1: 0.9, 2: 0.5}.items():
        checkpoints.save(progress(step), score=score)
    best = checkpoints.restore(progress(0), step=1)
    assert best is not None
    assert best.rows == progress(1).rows


def test_saving_a_step_twice_keeps_the_first(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(progress(1), score=0.5)
    checkpoints.save(progress(1), score=None)
    assert kept(tmp_path) == [1]


def test_a_disk_with_too_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(progress(1), score=0.5)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    with pytest.raises(
        UserError,
        match=r"step 2 is not saved: .*\(there is too little room; 2.0 MB are needed, 1.0 MB are free\); earlier",
    ):
        checkpoints.save(progress(2), score=0.6)
    assert kept(tmp_path) == [1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The checkpoints of steps 1 (the best), 2 and 3."""
    folder = tmp_path / "run" / "checkpoints"
    checkpoints = Checkpoints(folder)
    for step, score in {1: 0.9, 2: 0.5, 3: 0.4}.items():
        checkpoints.save(progress(step), score=score)
    return folder


def latest(folder: Path) -> tuple[int, list[str]]:
    checkpoints = Checkpoints(folder)
    restored = checkpoints.restore(progress(0))
    assert restored is not None
    step = int(restored.state.step)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, restored[:2], progress(step)[:2]))
    return step, checkpoints.set_aside


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)


def test_a_flipped_bit_in_any_file_is_found(folder: Path) -> None:
    files = sorted(path for path in (folder / "3").rglob("*") if path.is_file() and path.stat().st_size)
    assert len(files) > 5
    for file in files:
        content = file.read_bytes()
        flip(file)
        step, set_aside = latest(folder)
        assert step == 2
        assert "the checkpoint of step 3 is damaged" in set_aside[0]
        moved = max((folder.parent / "damaged").iterdir(), key=lambda path: int(path.name.partition("-")[2]))
        assert str(moved) in set_aside[0]
        moved.rename(folder / "3")  # nothing was deleted: mended, it is whole again
        file.write_bytes(content)
        assert latest(folder) == (3, [])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda step: (step / "arrays/_METADATA").unlink(), "arrays/_METADATA is missing"),
        (lambda step: (step / "arrays/new").write_text(""), "arrays/new is not in SHA256SUMS"),
        (lambda step: (step / "SHA256SUMS").unlink(), "it is incomplete: SHA256SUMS is missing"),
        (lambda step: (step / "SHA256SUMS").write_bytes(b"\xff"), "it cannot be read"),
        (lambda step: os.truncate(step / "history/metadata", 3), "history/metadata has another SHA-256"),
    ],
)
def test_damage_is_named(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder / "3")
    step, set_aside = latest(folder)
    assert step == 2
    assert message in set_aside[0]


def test_swapped_checkpoints_are_found(folder: Path) -> None:
    (folder / "2").rename(folder / "x")
    (folder / "3").rename(folder / "2")
    (folder / "x").rename(folder / "3")
    step, set_aside = latest(folder)
    assert step == 1
    assert len(set_aside) == 2
    assert "SHA256SUMS is of another folder: '# 3'" in set_aside[0]


def test_where_all_are_damaged_nothing_starts_from_zero(folder: Path) -> None:
    for step in ("1", "2", "3"):
        flip(folder / step / "SHA256SUMS")
    with pytest.raises(UserError, match=r"step 3 is damaged.*no checkpoint is left to go on from; to train from the"):
        Checkpoints(folder)


def test_what_a_killed_save_left_is_removed(folder: Path) -> None:
    leftover = folder / "4.orbax-checkpoint-tmp"
    leftover.mkdir()
    assert latest(folder) == (3, [])
    assert not leftover.exists()


def test_a_checkpoint_of_another_model(folder: Path) -> None:
    other = progress(0)
    other = other._replace(state=other.state.replace(params={"w": jnp.zeros(4)}))
    with pytest.raises(UserError, match=r"checkpoints/3 has float32\[3\] as state/params/w: expected float32\[4\]"):
        Checkpoints(folder).restore(other)
    other = other._replace(state=other.state.replace(params={}))
    with pytest.raises(UserError, match=r"checkpoints/3 has state/params/w, which this model has not"):
        Checkpoints(folder).restore(other)
