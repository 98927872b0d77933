"""Whole runs in this process: determinism, interruption, and what a run leaves behind."""

import dataclasses
import gc
import gzip
import json
import os
import shutil
import signal
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from digits_jax import input_pipeline, load_model
from digits_jax import train_loop as train
from digits_jax.config import resolve
from digits_jax.data import Dataset, load_configured
from digits_jax.errors import UserError
from digits_jax.experiment import build
from digits_jax.metrics import Metrics
from digits_jax.runs import run
from digits_jax.runs.checkpoint import Checkpoints, Progress
from digits_jax.runs.history import best_row
from digits_jax.runs.interrupts import Interrupted


def without_clock(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "train/seconds"} for row in rows]


def final_state(config: ConfigDict, dataset: Dataset, workdir: Path) -> list[Any]:
    start = build(resolve(config, dataset), dataset).create_state(np.uint32(0))
    progress = Checkpoints(workdir / "checkpoints").restore(Progress(start, Metrics.zero(), 0.0, []))
    assert progress is not None
    return [leaf.tolist() for leaf in jax.tree.leaves(progress.state)]


def press_ctrl_c() -> None:
    """Sends SIGINT and waits until the run has taken notice: another thread may receive it, a moment later."""
    handler = signal.getsignal(signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    while signal.getsignal(signal.SIGINT) is handler:
        time.sleep(0.001)


def interrupted_at(monkeypatch: pytest.MonkeyPatch, *, calls_before: int) -> None:
    """Has Ctrl-C pressed once, before the compiled call with this number."""
    original, count = input_pipeline.DevicePipeline.calls, 0

    def calls_with_ctrl_c(*args: Any, **kwargs: Any) -> Iterator[input_pipeline.Call]:
        nonlocal count
        for call in original(*args, **kwargs):
            if count == calls_before:
                press_ctrl_c()
            count += 1
            yield call

    monkeypatch.setattr(input_pipeline.DevicePipeline, "calls", calls_with_ctrl_c)


@pytest.fixture
def regularised(vgg_config: ConfigDict) -> ConfigDict:
    vgg_config.model.batch_norm = "after"
    vgg_config.model.hidden_dropout = 0.5
    return vgg_config


def test_a_run_leaves_its_story(small_config: ConfigDict, small_dataset: Dataset, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    rows = train.train_and_evaluate(small_config, workdir)
    assert [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()] == rows
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 7), (2, 14)]
    assert [row["train/learning_rate"] for row in rows] == pytest.approx([0.01, 0.1])
    assert set(rows[0]) == {
        "epoch", "step", "train/learning_rate", "train/loss", "train/accuracy", "train/seconds",
        "test/loss", "test/accuracy",
    }  # fmt: skip
    story = json.loads((workdir / "run.json").read_text())
    assert story["config"]["model"]["mean"] == pytest.approx(float(small_dataset.arrays.train_images.mean()))
    assert story["dataset"]["sha256"] == small_dataset.sha256
    assert story["versions"]["jax"] == jax.__version__
    text = (workdir / "run.json").read_text()
    assert os.uname().nodename not in text
    assert str(tmp_path.parent) not in text
    assert '"/' not in text


def test_steps_are_compiled_once_for_each_shape_of_batch(
    small_config: ConfigDict, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small_config.loss.label_smoothing = 0.01  # a program that no other test has compiled in this process
    with jax.log_compiles():
        train.train_and_evaluate(small_config, tmp_path / "run")
    compiled = [record.getMessage().split(" with ")[0] for record in caplog.records]
    assert compiled.count("Compiling jit(train_steps)") == 2  # full batches and the short one
    assert compiled.count("Compiling jit(eval_steps)") == 1


@pytest.mark.slow
def test_same_seed_same_run_other_seed_other_run(regularised: ConfigDict, tmp_path: Path) -> None:
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        regularised.seed = seed
        runs.append(without_clock(train.train_and_evaluate(regularised, tmp_path / name)))
    assert runs[0] == runs[1]
    assert all(x["train/loss"] != y["train/loss"] for x, y in zip(runs[0], runs[2], strict=True))


# In mid-epoch, before the short batch, at the end of the epoch, in the next one.
@pytest.mark.parametrize("calls_before", [*(pytest.param(calls, marks=pytest.mark.slow) for calls in (1, 3)), 4, 6])
def test_interrupted_and_resumed_is_bit_identical(
    regularised: ConfigDict, small_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls_before: int
) -> None:
    undisturbed = train.train_and_evaluate(regularised, tmp_path / "a")
    handler = signal.getsignal(signal.SIGINT)
    interrupted_at(monkeypatch, calls_before=calls_before)
    with pytest.raises(Interrupted):
        train.train_and_evaluate(regularised, tmp_path / "b")
    assert signal.getsignal(signal.SIGINT) is handler
    saved = max(int(path.name) for path in (tmp_path / "b" / "checkpoints").iterdir())
    assert saved == {1: 2, 3: 6, 4: 7, 6: 11}[calls_before]  # calls of 2, 2, 2 and 1 steps an epoch
    resumed = train.train_and_evaluate(regularised, tmp_path / "b")
    assert without_clock(resumed) == without_clock(undisturbed)
    assert (tmp_path / "b" / "metrics.jsonl").read_text().count("\n") == 2
    states = [final_state(regularised, small_dataset, tmp_path / name) for name in ("a", "b")]
    assert states[0] == states[1]


def test_a_second_ctrl_c_leaves_at_once(
    small_config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def calls_with_two(*args: Any, **kwargs: Any) -> Iterator[input_pipeline.Call]:
        press_ctrl_c()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)  # ended by the interrupt
        yield from ()

    monkeypatch.setattr(input_pipeline.DevicePipeline, "calls", calls_with_two)
    with pytest.raises(KeyboardInterrupt):
        train.train_and_evaluate(small_config, tmp_path)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_fallen_back_from_bit_for_bit(
    regularised: ConfigDict, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    regularised.learning_rates, regularised.epochs = (0.01,), (4,)
    undisturbed = train.train_and_evaluate(regularised, tmp_path / "a")
    (tmp_path / "a/checkpoints/28/history/metadata").write_text("{}")
    capsys.readouterr()
    again = train.train_and_evaluate(regularised, tmp_path / "a")
    assert without_clock(again) == without_clock(undisturbed)
    assert again[2] == undisturbed[2]
    assert again[3] != undisturbed[3]  # trained again, at another speed
    assert "warning: the checkpoint of step 28 is corrupted (history/metadata has another" in capsys.readouterr().err


def test_epochs_without_a_checkpoint_are_not_trained_again(small_config: ConfigDict, tmp_path: Path) -> None:
    train.train_and_evaluate(small_config, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(UserError, match=r"metrics.jsonl has epochs but .*checkpoints no checkpoint to resume from"):
        train.train_and_evaluate(small_config, tmp_path)


def test_a_damaged_best_checkpoint_is_trained_again(
    small_config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_config.dataset.validation_examples = 200
    small_config.learning_rates, small_config.epochs = (0.05, 1e-9), (1, 3)  # among equals the first is the best
    train.train_and_evaluate(small_config, tmp_path / "a")
    undisturbed = json.loads((tmp_path / "a/result.json").read_text())["best"]
    assert undisturbed["epoch"] == 1
    interrupted_at(monkeypatch, calls_before=9)  # in the third epoch; the first one's checkpoint is the best
    with pytest.raises(Interrupted):
        train.train_and_evaluate(small_config, tmp_path / "b")
    monkeypatch.undo()
    (tmp_path / "b/checkpoints/7/history/metadata").write_text("{}")
    with pytest.raises(UserError, match="has lost the checkpoint of the best epoch, step 7, and has none before it"):
        train.train_and_evaluate(small_config, tmp_path / "b")


def held_out(config: ConfigDict) -> None:
    config.dataset.validation_examples = 200


@pytest.mark.parametrize("change", [held_out, lambda config: None], ids=["held out", "test set"])
@pytest.mark.parametrize("calls_before", [13, 17])  # in the last epoch but one, and in the last: 4 calls an epoch
def test_interrupted_and_resumed_it_ends_with_the_same_best_model(
    small_config: ConfigDict,
    small_dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[ConfigDict], None],
    calls_before: int,
) -> None:
    change(small_config)
    small_config.learning_rates, small_config.epochs = (0.05, 5000.0), (2, 3)  # the last three ruin the model
    train.train_and_evaluate(small_config, tmp_path / "a")
    interrupted_at(monkeypatch, calls_before=calls_before)
    with pytest.raises(Interrupted):
        train.train_and_evaluate(small_config, tmp_path / "b")
    monkeypatch.undo()
    train.train_and_evaluate(small_config, tmp_path / "b")
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("a", "b")]
    for result in results:
        assert result["best"]["epoch"] < 3
        del result["checksum"]  # of the clock's numbers, too
        for row in (result["final"], result["best"], *result["epochs"]):
            del row["train/seconds"]
    assert results[0] == results[1]
    checkpoints = [sorted(path.name for path in (tmp_path / name / "checkpoints").iterdir()) for name in ("a", "b")]
    assert checkpoints == [sorted(str(step) for step in (results[0]["best"]["step"], 28, 35))] * 2
    predictions = [load_model(tmp_path / name).predict(small_dataset.arrays.test_images) for name in ("a", "b")]
    assert (predictions[0] == predictions[1]).all()
    assert (predictions[0].argmax(-1) == small_dataset.arrays.test_labels).mean() == results[0]["best"]["test/accuracy"]


def test_a_run_that_lost_its_best_checkpoint_to_an_earlier_version(
    small_config: ConfigDict, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    small_config.learning_rates, small_config.epochs = (0.05, 1e-9), (1, 3)  # among equals the first is the best
    train.train_and_evaluate(small_config, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints/7")
    capsys.readouterr()
    train.train_and_evaluate(small_config, tmp_path)
    assert "has lost the checkpoint of the best epoch, step 7, and has none before it" in capsys.readouterr().err
    with pytest.raises(UserError, match="has no checkpoint of step 7"):
        load_model(tmp_path)


def test_two_runs_in_one_folder(small_config: ConfigDict, small_dataset: Dataset, tmp_path: Path) -> None:
    open_run = run.Run(resolve(small_config, small_dataset), small_dataset, tmp_path, name="first")
    with pytest.raises(UserError, match=r"is in use by another process: wait for its end, or give another, --workdir"):
        train.train_and_evaluate(small_config, tmp_path)
    open_run.close()
    train.train_and_evaluate(small_config, tmp_path)


def test_another_machine_is_recorded_and_warned_about(
    small_config: ConfigDict, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    train.train_and_evaluate(small_config, tmp_path)
    story = json.loads((tmp_path / "run.json").read_text())
    cores = story["cores"]
    (tmp_path / "run.json").write_text(json.dumps({**story, "cores": 96}))
    for _ in range(2):  # said once
        train.train_and_evaluate(small_config, tmp_path)
    err = capsys.readouterr().err
    assert err.startswith(f"warning: cores from 96 to {cores}: from here on, the run may not be bit-identical to")
    assert err.count("\n") == 1
    story = json.loads((tmp_path / "run.json").read_text())
    assert (story["cores"], [machine["cores"] for machine in story["resumed_on"]]) == (96, [cores])


def test_a_folder_that_vanishes(small_config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = input_pipeline.DevicePipeline.calls

    def calls(*args: Any, **kwargs: Any) -> Iterator[input_pipeline.Call]:
        shutil.rmtree(tmp_path / "run")
        yield from original(*args, **kwargs)

    monkeypatch.setattr(input_pipeline.DevicePipeline, "calls", calls)
    with pytest.raises(UserError, match=r"the checkpoint of step 7 is not saved: .*needed, the folder is gone\)"):
        train.train_and_evaluate(small_config, tmp_path / "run")


@pytest.mark.parametrize("feed", ["device", "host"])
def test_numbers_that_go_wrong_are_named(small_config: ConfigDict, tmp_path: Path, feed: str) -> None:
    small_config.execution.images_on = feed
    small_config.learning_rates = (1.0, 1e38)
    with pytest.raises(UserError) as error:
        train.train_and_evaluate(small_config, tmp_path)
    assert str(error.value) == (
        "the loss is nan at step 8 (learning rate 1e+38); the checkpoint of step 7 is kept, and this shows each "
        f"step: python -m digits_jax.apps.replay {tmp_path} --steps=7:11"
    )
    assert [json.loads(line)["epoch"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1]


def test_a_finished_run_is_only_summed_up(
    small_config: ConfigDict, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = train.train_and_evaluate(small_config, tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert train.train_and_evaluate(small_config, tmp_path) == rows
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert "best on the test set" in capsys.readouterr().out
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_metrics_lost_after_the_checkpoint_come_back(small_config: ConfigDict, tmp_path: Path) -> None:
    rows = train.train_and_evaluate(small_config, tmp_path)
    first_line = (tmp_path / "metrics.jsonl").read_text().splitlines()[0]
    (tmp_path / "metrics.jsonl").write_text(first_line + "\n")
    train.train_and_evaluate(small_config, tmp_path)
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == rows


def test_a_workdir_of_another_run_is_refused(small_config: ConfigDict, tmp_path: Path) -> None:
    train.train_and_evaluate(small_config, tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    small_config.model.std = 255.0
    with pytest.raises(UserError, match=r"holds a run with config.model.std = .*, this one has 255.0: give another"):
        train.train_and_evaluate(small_config, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_other_data_under_the_same_name_are_refused(
    small_config: ConfigDict, small_dataset: Dataset, tmp_path: Path
) -> None:
    train.train_and_evaluate(small_config, tmp_path, dataset=small_dataset)
    other = dataclasses.replace(small_dataset, sha256="0" * 64)
    with pytest.raises(UserError, match=r"holds a run with dataset.sha256 = .*give another --workdir"):
        train.train_and_evaluate(small_config, tmp_path, dataset=other)


def test_a_workdir_that_cannot_be_written(small_config: ConfigDict, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"the workdir .*file/run cannot be written .*--workdir=DIR"):
        train.train_and_evaluate(small_config, tmp_path / "file" / "run")


def test_the_best_epoch_is_the_first_of_equals() -> None:
    rows = [{"epoch": i + 1, "test/accuracy": a} for i, a in enumerate([0.1, 0.9, 0.3, 0.9])]
    assert best_row(rows, "test/accuracy")["epoch"] == 2


def test_the_result_names_what_selected_it(small_config: ConfigDict, tmp_path: Path) -> None:
    rows = train.train_and_evaluate(small_config, tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["selected_by"] == "test/accuracy"
    assert result["final"] == rows[-1]
    assert result["best"] == best_row(rows, "test/accuracy")


def test_with_held_out_images_the_test_set_is_scored_at_the_end_only(
    small_config: ConfigDict, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    small_config.dataset.validation_examples = 200
    # A third epoch at a rate that ruins the model, so that the best epoch is not the final one.
    small_config.learning_rates, small_config.epochs = (0.05, 50.0), (2, 1)
    rows = train.train_and_evaluate(small_config, tmp_path)
    assert all("validation/accuracy" in row and "test/accuracy" not in row for row in rows)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["selected_by"] == "validation/accuracy"
    assert result["best"]["epoch"] == best_row(rows, "validation/accuracy")["epoch"] < 3
    assert result["best"]["test/accuracy"] > result["final"]["test/accuracy"]
    out = capsys.readouterr().out
    assert "best on the validation images" in out
    assert "200 held out to select the best epoch" in out
    # The best epoch's test score is that of its own parameters: a run that ends there has the same.
    small_config.learning_rates, small_config.epochs = (0.05,), (result["best"]["epoch"],)
    train.train_and_evaluate(small_config, tmp_path / "short")
    short = json.loads((tmp_path / "short" / "result.json").read_text())
    assert short["final"]["test/loss"] == result["best"]["test/loss"]


def test_augmented_test_images_are_scored_beside_the_clean_ones(small_config: ConfigDict, tmp_path: Path) -> None:
    small_config.augment.update({"shear": 0.3, "test": True})
    rows = train.train_and_evaluate(small_config, tmp_path)
    assert all(row["test/loss"] != row["test_augmented/loss"] for row in rows)
    small_config.augment.shear = 0.0
    rows = train.train_and_evaluate(small_config, tmp_path / "none")
    assert all(row["test/loss"] == row["test_augmented/loss"] for row in rows)


def test_a_stream_of_test_images_is_scored_beside_them(small_config: ConfigDict, tmp_path: Path) -> None:
    small_config.test_stream = True
    small_config.learning_rates = (1e-9, 1e-9)  # nothing is learned: only the draw differs between the epochs
    first, second = train.train_and_evaluate(small_config, tmp_path)
    assert first["test/loss"] == pytest.approx(second["test/loss"], rel=1e-6)
    assert first["test_stream/loss"] != pytest.approx(second["test_stream/loss"], rel=1e-6)
    assert first["test_stream/loss"] == pytest.approx(first["test/loss"], rel=0.1)
    small_config.eval_batch_size = 1000  # one batch, which a stream cannot cut
    rows = train.train_and_evaluate(small_config, tmp_path / "whole")
    assert all(row["test/accuracy"] == row["test_stream/accuracy"] for row in rows)


def test_early_stopping(small_config: ConfigDict, tmp_path: Path) -> None:
    small_config.learning_rates, small_config.epochs = (1e-9,), (6,)  # nothing is learned: the first epoch stays best
    small_config.early_stopping_epochs = 2
    assert len(train.train_and_evaluate(small_config, tmp_path)) == 3
    assert len(train.train_and_evaluate(small_config, tmp_path)) == 3  # and stays stopped


@pytest.mark.slow
def test_host_and_device_feeding_are_bit_identical(
    regularised: ConfigDict, small_dataset: Dataset, tmp_path: Path
) -> None:
    regularised.augment.shear = 0.3
    results = []
    for feed in input_pipeline.IMAGES_ON:
        regularised.execution.images_on = feed
        rows = without_clock(train.train_and_evaluate(regularised, tmp_path / feed))
        results.append((rows, final_state(regularised, small_dataset, tmp_path / feed)))
    assert results[0] == results[1]


def test_host_feeding_without_the_prepared_files(
    small_config: ConfigDict, small_dataset: Dataset, tmp_path: Path
) -> None:
    small_config.execution.images_on = "host"
    dataset = dataclasses.replace(small_dataset, folder=tmp_path / "gone")
    with pytest.raises(
        UserError, match=r"gone holds no prepared data set: config.execution.images_on='host' reads from one"
    ):
        train.train_and_evaluate(small_config, tmp_path / "run", dataset=dataset)


@pytest.mark.slow
def test_a_profile_of_the_first_steps(small_config: ConfigDict, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train.train_and_evaluate(small_config, tmp_path, profile_steps=3)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    table, _, end = capsys.readouterr().out.partition("\ntrace of 4 steps in ")  # in whole calls of two
    assert "2/2" in table
    path, file, ways = end.splitlines()[:3]
    assert path == f"{tmp_path}/profile; to view it, open"
    with gzip.open(file.strip()) as trace:  # Perfetto opens this file without the metadata that JAX's own has
        assert json.load(trace).keys() == {"displayTimeUnit", "traceEvents"}
    assert ways.endswith(f"xprof --logdir={tmp_path}/profile")
    train.train_and_evaluate(small_config, tmp_path, profile_steps=3)
    assert "\nno trace: there was no step left to train\n" in capsys.readouterr().out


def test_a_call_keeps_neither_its_data_nor_its_arrays(small_config: ConfigDict, tmp_path: Path) -> None:
    dataset = load_configured(small_config.dataset)
    alive: list[Any] = [weakref.ref(dataset), weakref.ref(dataset.arrays.train_images)]

    def on_device() -> int:
        return sum(array.shape == (100, 28, 28, 1) for array in jax.live_arrays())

    before = on_device()
    train.train_and_evaluate(small_config, tmp_path, dataset=dataset)
    del dataset
    gc.collect()
    assert [reference() for reference in alive] == [None, None]
    assert on_device() <= before  # less, where an earlier test had left some
