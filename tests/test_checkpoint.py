"""Which checkpoints are kept, and that they come back as they were."""

import shutil
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
        ({1: 0.5, 2: 0.9, 3: 0.7, 4: 0.8}, [2, 4]),  # a worse one never pushes out the latest
        ({1: 0.5, 2: 0.6, 3: 0.7}, [3]),
        ({1: 0.9, 2: 0.9, 3: 0.9}, [1, 3]),  # among equals the first is the best
        ({1: 0.9, 2: None, 3: 0.5}, [1, 3]),  # one saved in mid-epoch is kept only while it is the latest
        ({1: 0.9, 2: None}, [1, 2]),
    ],
)
def test_the_latest_and_the_best_are_kept(tmp_path: Path, scores: dict[int, float | None], steps: list[int]) -> None:
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
    with pytest.raises(UserError, match=r"the checkpoint of step 2 needs 2.0 MB but .* has 1.0 MB free; earlier ones"):
        checkpoints.save(progress(2), score=0.6)
    assert kept(tmp_path) == [1]
