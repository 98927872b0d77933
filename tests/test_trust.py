"""What a run and `load_model` do not believe: checkpoints of other runs, edited results, other files in the way."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from ml_collections import ConfigDict

from digits_jax import load_model
from digits_jax import train_loop as train
from digits_jax.config import resolve
from digits_jax.data import Dataset
from digits_jax.errors import UserError
from digits_jax.runs import ensemble
from digits_jax.runs.checkpoint import Checkpoints, Progress
from digits_jax.runs.identity import from_recorded
from digits_jax.runs.run import Run
from digits_jax.runs.workdir import Workdir
from digits_jax.train_step import TrainState
from tests.conftest import ROOT, new_small_config

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def runs(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of two finished runs, `seed0` and `seed1`, to be left as they are."""
    folder, config = tmp_path_factory.mktemp("runs"), new_small_config(data_dir)
    for config.seed in (0, 1):
        train.train_and_evaluate(config, folder / f"seed{config.seed}")
    return folder


@pytest.fixture
def copies(runs: Path, tmp_path: Path) -> Path:
    return shutil.copytree(runs, tmp_path / "runs")


def edit(file: Path, change: Change) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def replace_checkpoint(copies: Path, step: int = 14) -> None:
    """Puts the checkpoint of seed 1 in place of that of seed 0."""
    shutil.rmtree(copies / f"seed0/checkpoints/{step}")
    shutil.copytree(copies / f"seed1/checkpoints/{step}", copies / f"seed0/checkpoints/{step}")


def test_a_checkpoint_of_another_run_is_not_resumed_from(
    copies: Path, small_config: ConfigDict, capsys: pytest.CaptureFixture
) -> None:
    before = json.loads((copies / "seed0/result.json").read_text())
    replace_checkpoint(copies)
    train.train_and_evaluate(small_config, copies / "seed0")
    assert "step 14 is of another run (seed 1: expected 0) and is now" in capsys.readouterr().err
    after = json.loads((copies / "seed0/result.json").read_text())
    assert after["state_sha256"] == before["state_sha256"]
    assert (copies / "seed0/damaged/14-1/SHA256SUMS").is_file()


def test_a_checkpoint_of_another_run_is_not_loaded(copies: Path) -> None:
    replace_checkpoint(copies)
    for load in (
        lambda: load_model(copies / "seed0", checkpoint=14),
        lambda: ensemble.load(copies, checkpoint="latest"),
    ):
        with pytest.raises(UserError, match=r"step 14 in .* is of another run \(seed 1: expected 0\): choose another"):
            load()
    assert load_model(copies / "seed1", checkpoint=14).step == 14


def of_another_seed(result: dict[str, Any]) -> None:
    result["config"]["seed"] = 1
    del result["checksum"]


def without_checksum(change: Change) -> Change:
    def both(result: dict[str, Any]) -> None:
        change(result)
        del result["checksum"]

    return both


EDITS: dict[str, tuple[Change, str]] = {
    "accuracy": (lambda r: r["final"].update({"test/accuracy": 0.9999}), "was edited: its checksum is not that of its"),
    "an index": (lambda r: r["test_errors"].__setitem__(0, 9999), "was edited"),
    "a list of errors": (without_checksum(lambda r: r["test_errors"].pop()), "test errors, which are not those of its"),
    "final": (without_checksum(lambda r: r["final"].update({"test/accuracy": 1.0})), "contradicts itself"),
    "best": (without_checksum(lambda r: r["best"].update({"test/loss": 0.0})), "contradicts itself"),
    "state": (without_checksum(lambda r: r.update(state_sha256="0" * 64)), "another final state than the checkpoint"),
    "an epoch": (
        without_checksum(lambda r: [row.update({"train/loss": 0.0}) for row in (r["epochs"][-1], r["final"])]),
        "has other epochs than metrics.jsonl",
    ),
    "the seed": (of_another_seed, "has config.seed = 1, and run.json 0"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_result_is_not_believed(copies: Path, small_config: ConfigDict, name: str) -> None:
    change, message = EDITS[name]
    edit(copies / "seed0/result.json", change)
    content = (copies / "seed0/result.json").read_bytes()
    with pytest.raises(UserError, match=rf"seed0/result.json .*{message}.*: remove it, and the command of the run"):
        train.train_and_evaluate(small_config, copies / "seed0")
    with pytest.raises(UserError, match=message):
        load_model(copies / "seed0", checkpoint=14)
    assert (copies / "seed0/result.json").read_bytes() == content


def test_the_result_of_another_run_is_not_believed(copies: Path, small_config: ConfigDict) -> None:
    shutil.copy(copies / "seed1/result.json", copies / "seed0/result.json")
    with pytest.raises(UserError, match=r"result.json has config.seed = 1, and run.json 0: remove it"):
        train.train_and_evaluate(small_config, copies / "seed0")


def test_edited_metrics_are_not_written_over(copies: Path, small_config: ConfigDict) -> None:
    (copies / "seed0/result.json").unlink()
    lines = (copies / "seed0/metrics.jsonl").read_text().splitlines()
    (copies / "seed0/metrics.jsonl").write_text("\n".join([lines[0].replace("0.", "1.", 1), lines[1]]) + "\n")
    with pytest.raises(UserError, match=r"metrics.jsonl has another epoch 1 than the checkpoint of step 14: remove it"):
        train.train_and_evaluate(small_config, copies / "seed0")


@pytest.mark.parametrize("content", ["5", '"x"', '{"final": {}}', "[" * 5000, "", '{"config": NaN}'])
def test_a_result_that_is_none(copies: Path, small_config: ConfigDict, content: str) -> None:
    (copies / "seed0/result.json").write_text(content)
    for act in (lambda: load_model(copies / "seed0"), lambda: train.train_and_evaluate(small_config, copies / "seed0")):
        with pytest.raises(UserError, match=r"seed0/result.json cannot be read \(.*\)$"):
            act()


@pytest.mark.parametrize("name", ["result.json", "run.json"])
def test_no_pipe_and_no_huge_file_is_read(copies: Path, name: str) -> None:
    file = copies / "seed0" / name
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UserError, match=rf"{name} cannot be read.*expected a regular file"):
        load_model(copies / "seed0")
    file.unlink()
    with file.open("wb") as opened:
        opened.truncate(5_000_000_000)  # sparse
    with pytest.raises(UserError, match=rf"{name} cannot be read.*expected at most 16,000,000 bytes"):
        load_model(copies / "seed0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: run.update(image_shape=[28, 28]), r"image_shape is \[28, 28\]: expected a list of 3 to 3 items"),
        (lambda run: run.update(image_shape=[28, -28, 1]), "image_shape is"),
        (lambda run: run.update(image_shape=["28", 28, 1]), "image_shape is"),
        (lambda run: run.update(config={}), "is of another run"),
        (lambda run: run.update(num_classes=-1), "num_classes is -1: expected an integer from 1"),
        (lambda run: run["dataset"].update(name="../x"), 'dataset.name is "../x": expected a name'),
    ],
)
def test_a_run_file_that_makes_no_sense(copies: Path, change: Change, message: str) -> None:
    edit(copies / "seed0/run.json", change)
    with pytest.raises(UserError, match=message) as caught:
        load_model(copies / "seed0")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_shapes_are_compared_before_anything_is_restored(copies: Path) -> None:
    """A checkpoint of zeros has few bytes on the disk, whatever its size."""
    folder = Workdir(copies / "seed0")
    folder.read_run()
    shutil.rmtree(folder.checkpoints)
    (folder.path / "result.json").unlink()
    params = {"Dense_0": {"kernel": np.zeros((8000, 8000), np.float32), "bias": np.zeros(10, np.float32)}}
    state = TrainState(seed=np.uint32(0), step=np.int32(0), params=params, batch_stats={}, opt_state=())
    checkpoints = Checkpoints(folder.checkpoints, folder.identity)
    checkpoints.save(Progress.at_the_start(state, from_recorded(folder.run["config"])), best=None)
    code = f"""
import digits_jax.runs.trained_model as t
from tests.fuzz import peak_memory
before = peak_memory()
try:
    t.load_model({str(folder.path)!r}, checkpoint="latest")
except t.UserError as error:
    print(peak_memory() - before, error)
"""
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    grown, _, message = found.stdout.partition(" ")
    assert "checkpoints/0 has float32[8000, 8000] as state/params/Dense_0/kernel: expected float32[784, 10]" in message
    assert int(grown) < 150, "MB; the array has 256"


@pytest.mark.parametrize(
    ("variable", "value", "change"),
    [
        ("jax_enable_x64", True, "numerics.jax_enable_x64 from False to True"),
        ("jax_default_matmul_precision", "bfloat16", "numerics.jax_default_matmul_precision from None to bfloat16"),
        ("jax_default_prng_impl", "rbg", "numerics.jax_default_prng_impl from threefry2x32 to rbg"),
    ],
)
def test_other_numeric_settings_are_reported(
    copies: Path,
    small_config: ConfigDict,
    small_dataset: Dataset,
    tmp_path: Path,
    variable: str,
    value: Any,
    change: str,
) -> None:
    config, before = resolve(small_config, small_dataset), getattr(jax.config, variable)
    jax.config.update(variable, value)
    try:
        for path, message in (
            (copies / "seed0", f"{change}: from here on"),
            (tmp_path / "new", f"{variable} is {value}: "),
        ):
            run = Run(config, small_dataset, path, name="a run")
            run.close()
            assert [message in warning for warning in run.warnings] == [True]
    finally:
        jax.config.update(variable, before)


def test_flags_of_xla_are_compared(
    copies: Path, small_config: ConfigDict, small_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"] + " --xla_cpu_multi_thread_eigen=false --xla_dump_to=x")
    for expected in (["--xla_cpu_multi_thread_eigen=false"], []):  # reported once
        run = Run(resolve(small_config, small_dataset), small_dataset, copies / "seed0", name="a run")
        run.close()
        assert [name for name in expected if name not in run.warnings[0]] == []
        assert len(run.warnings) == len(expected)
        assert "xla_dump" not in "".join(run.warnings)


@pytest.mark.parametrize(
    ("name", "is_folder"),
    [
        ("result.json", True),
        ("curves.png", True),
        ("metrics.jsonl", True),
        ("checkpoints", False),
        ("tensorboard", False),
    ],
)
def test_a_folder_where_a_file_should_be_and_the_reverse(
    copies: Path, small_config: ConfigDict, name: str, is_folder: bool
) -> None:
    path = copies / "seed0" / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.mkdir() if is_folder else path.write_text("")
    with pytest.raises(UserError, match=rf"{name} is in the way: expected a .*; move it"):
        train.train_and_evaluate(small_config, copies / "seed0")


def test_a_full_disk_after_the_last_checkpoint(
    copies: Path, small_config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copies / "seed0"
    (folder / "result.json").unlink()
    with monkeypatch.context() as full:

        def refuse(path: Path, content: object) -> None:
            raise OSError(28, "No space left on device", str(path))

        full.setattr("digits_jax.storage.files.replace_bytes", refuse)
        with pytest.raises(UserError, match=r"the metrics cannot be saved: .*No space left .*; checkpoints are intact"):
            train.train_and_evaluate(small_config, folder)
        full.setattr("digits_jax.runs.run.Run.write", lambda *_: None)
        with pytest.raises(UserError, match=r"the result cannot be saved: .*No space left .*; checkpoints are intact"):
            train.train_and_evaluate(small_config, folder)
    train.train_and_evaluate(small_config, folder)
    assert (folder / "result.json").is_file()


def test_a_folder_of_something_else_is_left_alone(small_config: ConfigDict, tmp_path: Path) -> None:
    files = ["tensorboard/events", "checkpoints/5/model", "result.json", "notes"]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    with pytest.raises(
        UserError, match=r"holds checkpoints, notes, result.json but no run: expected an empty directory"
    ):
        train.train_and_evaluate(small_config, tmp_path)
    assert [(tmp_path / name).read_text() for name in files] == ["mine"] * 4


def test_folders_that_are_no_steps(copies: Path, small_config: ConfigDict) -> None:
    for name in ("²", "٣", "007", "notes"):
        (copies / "seed0/checkpoints" / name).mkdir()
    train.train_and_evaluate(small_config, copies / "seed0")
    assert load_model(copies / "seed0").step in (7, 14)


def test_a_save_that_was_cut_off_is_not_called_damage(
    copies: Path, small_config: ConfigDict, capsys: pytest.CaptureFixture
) -> None:
    (copies / "seed0/checkpoints/14/SHA256SUMS").unlink()
    train.train_and_evaluate(small_config, copies / "seed0")
    err = capsys.readouterr().err
    assert "step 14 is incomplete (SHA256SUMS is missing: the process ended while it was saved) and is now" in err
    assert "corrupted" not in err


def test_a_path_from_which_nothing_could_be_restored(copies: Path, small_config: ConfigDict, tmp_path: Path) -> None:
    message = r"\[v1\]/.*checkpoints.* has one of \*, \? and \[, with which nothing can be restored: give another path"
    with pytest.raises(UserError, match=message):
        train.train_and_evaluate(small_config, tmp_path / "proj [v1]/run")
    copies.rename(tmp_path / "moved [v1]")
    with pytest.raises(UserError, match=message):
        load_model(tmp_path / "moved [v1]/seed0")


def test_a_disk_that_returns_other_values(
    small_config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore = ocp.Checkpointer.restore

    def other(*args: Any, **kwargs: Any) -> Any:
        restored = restore(*args, **kwargs)
        restored.arrays["state"].params["Dense_0"]["bias"][3] = 1.0
        return restored

    monkeypatch.setattr(ocp.Checkpointer, "restore", other)
    with pytest.raises(UserError, match="checkpoints/0 holds other values than were saved: expected a sound disk"):
        train.train_and_evaluate(small_config, tmp_path / "run")


def test_a_refused_call_leaves_no_lock(copies: Path, small_config: ConfigDict) -> None:
    small_config.batch_size = 8
    with pytest.raises(UserError, match=r"config.batch_size = 16, this one has 8") as refused:
        train.train_and_evaluate(small_config, copies / "seed0")
    small_config.batch_size = 16
    train.train_and_evaluate(small_config, copies / "seed0")  # as in a notebook, which keeps the exception
    assert refused.value.__traceback__ is not None
