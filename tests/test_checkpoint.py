"""Which checkpoints are kept, and that they come back as they were."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from digits_jax.errors import UserError
from digits_jax.metrics import Metrics
from digits_jax.runs.checkpoint import Checkpoints, Progress
from digits_jax.train_step import TrainState


def progress(step: int, *, ends: Sequence[int] = ()) -> Progress:
    """That of a run whose epochs ended at these steps."""
    state = TrainState(
        seed=jnp.uint32(0),
        step=jnp.asarray(step, jnp.int32),
        params={"w": jnp.full(3, step / 7)},
        batch_stats={},
        opt_state=(),
    )
    metrics = Metrics(jnp.asarray(step / 3, jnp.float32), jnp.asarray(step, jnp.int32), jnp.asarray(9, jnp.int32))
    rows = [{"epoch": epoch, "step": end, "loss": 0.1 + 0.2} for epoch, end in enumerate(ends, 1)]
    return Progress(state=state, metrics=metrics, seconds=0.125 * step, rows=rows)


def kept(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir())


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.restore(progress(0)) is None
    checkpoints.save(progress(5, ends=[2, 5]), best=2)
    restored = Checkpoints(tmp_path).restore(progress(0))
    assert restored is not None
    assert restored.rows == progress(5, ends=[2, 5]).rows
    assert restored.seconds == progress(5).seconds
    for a, b in zip(jax.tree.leaves(restored[:2]), jax.tree.leaves(progress(5)[:2]), strict=True):
        assert a.dtype == b.dtype
        assert (a == b).all()


def save(folder: Path, saves: dict[int, int], ends: Sequence[int], *, resumed: bool = False) -> None:
    """Saves steps, each with the best so far, in one process or in one for each."""
    checkpoints = Checkpoints(folder)
    for step, best in saves.items():
        checkpoints = Checkpoints(folder) if resumed else checkpoints
        checkpoints.save(progress(step, ends=[end for end in ends if end <= step]), best=best or None)


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize(
    ("saves", "ends", "steps"),
    [
        ({0: 0, 1: 1, 2: 2, 3: 2, 4: 2, 5: 2}, [1, 2, 3, 4, 5], [2, 4, 5]),
        ({0: 0, 1: 1, 2: 2, 3: 3}, [1, 2, 3], [2, 3]),
        ({0: 0, 1: 1, 2: 1, 3: 1, 4: 1}, [1, 2, 3, 4], [1, 3, 4]),
        ({0: 0, 2: 2, 3: 2, 4: 2, 6: 2}, [2, 4, 6], [2, 4, 6]),  # 3 is in mid-epoch: kept while it is the latest
        ({0: 0, 2: 2, 3: 2}, [2], [0, 2, 3]),
        ({0: 0, 1: 0}, [], [0, 1]),
    ],
)
def test_the_last_two_epochs_the_best_and_the_latest_are_kept(
    tmp_path: Path, saves: dict[int, int], ends: list[int], steps: list[int], resumed: bool
) -> None:
    save(tmp_path, saves, ends, resumed=resumed)
    assert kept(tmp_path) == steps
    latest = Checkpoints(tmp_path).restore(progress(0))
    assert latest is not None
    assert int(latest.state.step) == max(saves)


def test_an_older_checkpoint_by_its_step(tmp_path: Path) -> None:
    save(tmp_path, {1: 1, 2: 1}, [1, 2])
    best = Checkpoints(tmp_path).restore(progress(0), step=1)
    assert best is not None
    assert best.rows == progress(1, ends=[1]).rows


def test_saving_a_step_twice_keeps_the_first(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(progress(1, ends=[1]), best=1)
    checkpoints.save(progress(1), best=None)
    assert kept(tmp_path) == [1]


def test_a_disk_with_too_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(progress(1, ends=[1]), best=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    with pytest.raises(
        UserError,
        match=r"step 2 is not saved: .*\(there is too little room; 2.0 MB are needed, 1.0 MB are free\); earlier",
    ):
        checkpoints.save(progress(2, ends=[1, 2]), best=2)
    assert kept(tmp_path) == [1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The checkpoints of steps 1 (the best), 2 and 3."""
    folder = tmp_path / "run" / "checkpoints"
    save(folder, {1: 1, 2: 1, 3: 1}, [1, 2, 3])
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
        assert "the checkpoint of step 3 is corrupted" in set_aside[0]
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
        (
            lambda step: (step / "SHA256SUMS").unlink(),
            "the checkpoint of step 3 is incomplete (SHA256SUMS is missing: ",
        ),
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
    with pytest.raises(UserError, match=r"step 3 is corrupted.*no checkpoint is left to resume from; to train from"):
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
