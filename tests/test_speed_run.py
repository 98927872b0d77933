"""Two sides trained in turns."""

import contextlib
import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from digits_jax.apps.speed import build_experiment, random_dataset
from digits_jax.augment import RANGES
from digits_jax.config import resolve
from digits_jax.data import Dataset
from digits_jax.errors import ConfigError, UserError
from digits_jax.studies.benchmark import pytorch
from digits_jax.studies.benchmark.programs import Case
from digits_jax.studies.benchmark.speed_run import in_process, race, time_cases, train
from digits_jax.train_loop import train_and_evaluate


def test_it_trains_as_a_run_does(small_config: ConfigDict, small_dataset: Dataset, tmp_path: Path) -> None:
    small_config.seed = 3
    rows = train_and_evaluate(small_config, tmp_path)
    small_config.seed = 0
    seconds, accuracy = train(resolve(small_config, small_dataset), small_dataset, 3)
    assert accuracy == rows[-1]["test/accuracy"]
    assert seconds > 0


def test_sides_take_turns() -> None:
    calls = []

    def side(name: str, factor: int) -> object:
        return lambda seed: (calls.append((name, seed)), (factor * (seed + 1), 0.9))[1]

    found = race({"a": side("a", 1), "b": side("b", 10)}, seeds=2)  # type: ignore[dict-item]
    assert calls == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert found["b"] == {"seconds": [10, 20], "accuracy": [0.9, 0.9]}


@pytest.mark.slow
def test_a_side_that_fails_ends_the_race(capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.ExitStack() as stack, pytest.raises(UserError, match="the race ends: nobody failed"):
        race({"nobody": in_process("nobody", stack)}, seeds=2)
    line = capsys.readouterr().err
    assert line.startswith("warning: nobody failed: exit code ")
    assert "error: " in line  # that there is no such side, or no MNIST


def test_costs(small_config: ConfigDict) -> None:
    small_config.model.mean, small_config.model.std = 33.0, 78.0
    found = time_cases([Case("linear", small_config, "training")], rounds=2, seconds=0.01)["linear"]
    assert len(found["seconds_per_image"]) == 2
    assert 0 < min(found["seconds_per_image"]) < 1e-2
    assert found["flops_per_image"] == pytest.approx(2 * 2 * 784 * 10, rel=0.5)  # forward, and the weights' gradient


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="PyTorch is not installed")
def test_pytorch_learns_by_the_recipe(vgg_config: ConfigDict, small_dataset: Dataset) -> None:
    vgg_config.model.update(batch_norm="before", bn_momentum=0.8)
    vgg_config.optimizer.name, vgg_config.schedule.name, vgg_config.loss.label_smoothing = "nesterov", "linear", 0.1
    vgg_config.update(learning_rates=(0.05,), epochs=(6,))
    config = resolve(vgg_config, small_dataset)
    seconds, accuracy = pytorch.train(config, small_dataset, 0)
    assert seconds > 0
    assert accuracy > 0.3  # of ten classes, after 42 steps


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="PyTorch is not installed")
def test_pytorch_has_the_same_networks(small_config: ConfigDict, small_dataset: Dataset) -> None:
    dataset = random_dataset(16, 3)
    vgg = {"name": "vgg", "widths": ((2, 3), (4,)), "hidden_width": 5}
    for network in ({"name": "linear"}, *(vgg | {"batch_norm": place} for place in ("none", "before", "after"))):
        small_config.model.update(network)
        config = resolve(small_config, dataset)
        parameters = build_experiment(config, dataset).create_state(np.uint32(0)).params
        trainer = pytorch.Trainer(config, dataset, layout="contiguous")
        trainer.train_epoch()
        loss, accuracy = trainer.evaluate()
        assert loss > 0
        assert 3 * accuracy in (0, 1, 2, 3)
        ours = sorted(leaf.size for leaf in jax.tree.leaves(parameters))
        assert sorted(tensor.numel() for tensor in trainer._model.parameters()) == ours


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="PyTorch is not installed")
def test_pytorch_warps_as_we_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    images = torch.rand(3, 1, 28, 28)
    none = ConfigDict(dict.fromkeys(RANGES, 0.0) | {"interpolation": "nearest"})

    def warp(**ranges: object) -> torch.Tensor:
        changed = none.copy_and_resolve_references()
        changed.update(ranges)
        return pytorch.random_warp(images, changed)

    assert torch.equal(warp(), images)
    with monkeypatch.context() as patched:
        patched.setattr(
            torch, "rand", lambda *shape, device: torch.ones(*shape, device=device)
        )  # the end of each range
        assert torch.equal(warp(rotation=90.0), images.rot90(1, (2, 3)))
        shifted = warp(height_shift=0.25)  # along x: rows and columns are exchanged
        assert torch.equal(shifted[..., :21], images[..., 7:])
        assert torch.equal(shifted[..., 21:], images[..., -1:].expand(-1, -1, -1, 7))
    assert not torch.equal(warp(zoom=0.5)[0], warp(zoom=0.5)[0])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("optimizer.name", "adam", "config.optimizer.name is 'adam': expected one of sgd, nesterov"),
        ("average_decay", 0.9, "config.average_decay is 0.9 and"),
        ("augment.names", ("elastic",), r"config.augment.names \('elastic',\): expected 0.0 and"),
    ],
)
def test_recipes_that_pytorch_is_not_given(
    small_config: ConfigDict, small_dataset: Dataset, field: str, value: object, message: str
) -> None:
    small_config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=message):
        pytorch.train(resolve(small_config, small_dataset), small_dataset, 0)
