"""What a person sees."""

import io
import os
import signal
import sys
from types import SimpleNamespace
from typing import cast

import pytest
from ml_collections import ConfigDict
from rich.table import Table

from digits_jax import cli, models
from digits_jax.config import load_config
from digits_jax.experiment import Experiment
from digits_jax.runs import Interrupted, StopRequest, console


def test_layers_in_the_order_they_are_called(capsys: pytest.CaptureFixture) -> None:
    config = load_config("bn_dropout")
    config.model.update(mean=33.0, std=78.0)
    console.show_parameters(models.create_model(config.model, num_classes=10), (28, 28, 1))
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert rows[0] == ["layer", "output", "parameters"]
    assert rows[1:3] == [["Conv_0", "26x26x32", "320"], ["BatchNorm_0", "26x26x32", "64"]]
    assert rows[-2:] == [["Dense_1", "10", "5,130"], ["total", "596,330"]]
    assert len(rows) == 13


def test_figures() -> None:
    assert cli.percent(0.99555) == "99.56%"
    assert cli.percent(1.0) == "100.00%"
    assert [cli.duration(s) for s in (0.4, 59.4, 60, 3599.6)] == ["0 s", "59 s", "1 min 00 s", "60 min 00 s"]


def test_brackets_and_colons_are_printed_as_they_are(capsys: pytest.CaptureFixture) -> None:
    texts = ["m[/old]", "m[old]/run", "Is a [small] one better?", "runs/:smile:/a"]
    for text in texts:
        cli.console.print(text)
    assert capsys.readouterr().out.splitlines() == texts
    table = Table("layer", title=texts[2])
    table.add_row(texts[1])
    cli.console.print(table)
    shown = capsys.readouterr().out
    assert texts[1] in shown
    assert texts[2] in shown


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_closed_output_asks_training_to_stop(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.Terminal, "is_closed", False)
    reader, writer = os.openpty() if is_terminal else os.pipe()
    os.close(reader)
    with open(writer, "w") as stdout, StopRequest() as stop:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert not stop.poll()
        cli.console.print("nobody reads this")
        assert stop.poll()
        cli.console.print("nor this")
    assert Interrupted(stop.signum).exit_code == 141


def test_nohup_keeps_a_run_going(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.poll()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.poll()
        assert Interrupted(stop.signum).exit_code == 75
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_row_with_held_out_images_fits_a_terminal(capsys: pytest.CaptureFixture) -> None:
    config, pipeline = ConfigDict({"epochs": (1, 99)}), SimpleNamespace(num_examples=50_000)
    row = {f"{split}/{key}": 1.0 for split in ("train", "validation") for key in ("loss", "accuracy")}
    row |= {"epoch": 100, "step": 78_200, "train/learning_rate": 0.000012, "train/seconds": 1.0}
    console.show_epoch(cast(Experiment, SimpleNamespace(config=config, pipeline=pipeline)), [row])
    assert len(capsys.readouterr().out.rstrip("\n")) <= 80


def test_evaluating_is_shown_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(console, "console", cli.Terminal(file=shown, force_terminal=True))
    assert console.evaluate({}, []) == []
    assert "evaluating" in shown.getvalue()
