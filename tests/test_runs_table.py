"""The table of runs: states, columns, selection, and the comparison of two."""

import fcntl
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import pytest
from absl.testing import flagsaver

from digits_jax import cli
from digits_jax import train_loop as train
from digits_jax.errors import DivergedError, UserError
from digits_jax.runs import __main__ as table
from digits_jax.runs import listing
from digits_jax.runs.workdir import Workdir
from tests.conftest import new_small_config

List = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def originals(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that were trained: one to its end, one that diverged in its second epoch."""
    folder = tmp_path_factory.mktemp("originals")
    config = new_small_config(data_dir)
    train.train_and_evaluate(config, folder / "finished")
    config.learning_rates, config.seed = (1.0, 1e38), 1
    with pytest.raises(DivergedError):
        train.train_and_evaluate(config, folder / "linear" / "diverged")
    return folder


@pytest.fixture
def runs(originals: Path, tmp_path: Path) -> Path:
    """Returns a folder with a run in each state but training."""
    folder = tmp_path / "runs"
    shutil.copytree(originals, folder)
    for name in ("stopped", "corrupted", "edited"):
        shutil.copytree(folder / "finished", folder / "linear" / name)
    (folder / "linear/stopped/result.json").unlink()
    metrics = folder / "linear/stopped/metrics.jsonl"
    metrics.write_text(metrics.read_text().splitlines(keepends=True)[0])
    (folder / "linear/corrupted/run.json").write_text('{"config": ')
    result = folder / "linear/edited/result.json"
    result.write_text(result.read_text().replace('"epoch": 2', '"epoch": 1'))
    return folder


@pytest.fixture
def list_runs(capsys: pytest.CaptureFixture, parsed_flags: None) -> List:
    def list_runs(folder: Path, **options: Any) -> list[dict[str, Any]]:
        with flagsaver.flagsaver(json=True, **options):
            table.main(["", str(folder)])
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return list_runs


def names(listed: list[dict[str, Any]]) -> list[str]:
    return [Path(run["path"]).name for run in listed]


def test_each_run_has_its_state_and_metrics(runs: Path, list_runs: List) -> None:
    listed = {Path(run["path"]).relative_to(runs).as_posix(): run for run in list_runs(runs)}
    assert {path: run["state"] for path, run in listed.items()} == {
        "finished": "finished",
        "linear/corrupted": "corrupted",
        "linear/diverged": "diverged",
        "linear/edited": "corrupted",
        "linear/stopped": "stopped",
    }
    result = json.loads((runs / "finished/result.json").read_text())
    finished, stopped, diverged = (listed[name] for name in ("finished", "linear/stopped", "linear/diverged"))
    assert finished["accuracy"] == result["final"]["test/accuracy"]
    assert finished["best"] == result["best"]["test/accuracy"]
    assert finished["selected_by"] == "test"
    assert finished["time"] == pytest.approx(sum(row["train/seconds"] for row in result["epochs"]))
    assert (finished["epochs"], stopped["epochs"], finished["num_epochs"], stopped["num_epochs"]) == (2, 1, 2, 2)
    assert stopped["accuracy"] == result["epochs"][0]["test/accuracy"]
    changes = {"model.name": "linear", "batch_size": 16, "learning_rates": [0.01, 0.1], "dataset.train_examples": 100}
    assert finished["config"].items() >= changes.items()
    assert "model.batch_norm" not in finished["config"]
    assert (diverged["seed"], diverged["reason"]) == (1, "the loss is nan at step 8 (learning rate 1e+38)")
    assert "run.json cannot be read" in listed["linear/corrupted"]["reason"]
    assert "was edited" in listed["linear/edited"]["reason"]


def test_a_locked_run_is_training_and_a_finished_one_finished(runs: Path, list_runs: List) -> None:
    with filelock.FileLock(runs / "linear/diverged/lock"), filelock.FileLock(runs / "finished/lock"):
        states = dict(zip(names(listed := list_runs(runs)), [run["state"] for run in listed], strict=True))
        assert states | {"diverged": "training", "finished": "finished", "stopped": "stopped"} == states
    assert [run["state"] for run in list_runs(runs / "linear/diverged")] == ["diverged"]


def test_a_run_that_trained_further_is_not_diverged(runs: Path, list_runs: List) -> None:
    record = runs / "linear/diverged/diverged.json"
    assert json.loads(record.read_text())["step"] == 7  # that of its latest checkpoint
    record.write_text('{"step": 0, "reason": "the loss is nan"}')
    assert [run["state"] for run in list_runs(runs / "linear/diverged")] == ["stopped"]


def test_a_run_can_start_while_another_process_looks_at_its_lock(runs: Path) -> None:
    workdir = Workdir(runs / "linear/stopped")
    assert not workdir.is_locked()
    with (workdir.path / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # as `is_locked` has it
        threading.Timer(0.02, fcntl.flock, (file, fcntl.LOCK_UN)).start()
        with workdir._lock:
            assert Workdir(workdir.path).is_locked()


def test_listing_reads_no_checkpoints_and_leaves_all_files_alone(runs: Path, list_runs: List) -> None:
    (runs / "linear/stopped/lock").unlink()
    for file in (runs / "finished/checkpoints").rglob("SHA256SUMS"):
        file.write_text("damaged")
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*")}
    assert len(list_runs(runs, where=["state=finished"])) == 1
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*")} == before


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"epoch": 1, "step": 7, "test/accuracy": "high"}\n', "test/accuracy is .high.: expected a number in"),
        ('{"epoch": 1, "step": 7, "test/accuracy": 0.5, "train/seconds": 1e300}\n', "train/seconds is 1e.300"),
        ("[]\n", r"metrics.jsonl .*, line 1, cannot be read"),
        ('{"epoch": 1, "step": 7}\n', "epoch 1 of the run has no test/accuracy"),
    ],
)
def test_metrics_that_are_none(runs: Path, list_runs: List, content: str, reason: str) -> None:
    (runs / "linear/stopped/metrics.jsonl").write_text(content)
    (run,) = list_runs(runs / "linear/stopped")
    assert run["state"] == "corrupted"
    assert re.search(reason, run["reason"])


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (["state=finished"], ["finished"]),
        (["model.kernel_init=glorot_uniform"], ["finished", "diverged", "stopped"]),  # the default
        (["model.batch_norm=after"], []),
        (["learning_rates=0.010,0.1"], ["finished", "stopped"]),
        (["learning_rates=[1.0, 1e38]"], []),  # a list is no tuple
        (["batch_size=16.0", "seed=1"], ["diverged"]),
        (["average_decay=0.00", "state=stopped"], ["stopped"]),
        (["test_stream=false", "seed=1"], ["diverged"]),
        (["dataset.source_dir=None", "seed=1"], ["diverged"]),
        (["epochs=2"], ["finished"]),  # that are done
        (["epochs=1,1"], ["finished", "diverged", "stopped"]),  # of the config
    ],
)
def test_where(runs: Path, list_runs: List, conditions: list[str], expected: list[str]) -> None:
    assert names(list_runs(runs, where=conditions)) == expected


@pytest.mark.parametrize(
    ("column", "expected"),
    [("path", ["finished", "corrupted", "diverged", "edited", "stopped"]), ("-epochs", ["finished", "diverged"])],
)
def test_sorted_with_unknown_values_last(runs: Path, list_runs: List, column: str, expected: list[str]) -> None:
    assert names(list_runs(runs, sort=column))[: len(expected)] == expected
    for name in ("accuracy", "-accuracy"):
        listed = list_runs(runs, sort=name)
        values = [run["accuracy"] for run in listed[:3]]
        assert values == sorted(values, reverse=name.startswith("-"))
        assert names(listed[3:]) == ["corrupted", "edited"]


def test_a_row_is_a_line_and_shows_what_differs(runs: Path, capsys: pytest.CaptureFixture, parsed_flags: None) -> None:
    table.main(["", str(runs), str(runs / "linear")])  # those below both are listed once
    common, _, header, *rows = capsys.readouterr().out.splitlines()
    assert "model.name=linear" in common
    assert header.split() == [*(c for c in listing.COLUMNS if c != "num_epochs"), "config"]
    assert len(rows) == 5
    assert rows[0].split()[:3] == [str(runs / "finished"), "0", "2/2"]
    assert rows[1].endswith("expected what a run writes there")
    assert rows[2].split()[-2:] == ["diverged", "learning_rates=(1.0,1e+38)"]
    with flagsaver.flagsaver(where=["state=training"]):
        table.main(["", str(runs)])
    assert capsys.readouterr().out == "no runs\n"


def test_a_narrow_terminal(
    runs: Path, capsys: pytest.CaptureFixture, parsed_flags: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    monkeypatch.setattr(cli, "console", cli.Terminal(force_terminal=True, width=80, color_system=None))
    table.main(["", "linear"])
    lines = capsys.readouterr().out.splitlines()[2:]
    assert len(lines) == 5
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["path", "seed", "epochs", "accuracy", "state", "config"]
    assert "learning_rates=" in lines[2]


def test_names_of_strangers_are_only_text(runs: Path, capsys: pytest.CaptureFixture, parsed_flags: None) -> None:
    (runs / "finished").rename(runs / "[red]\x1b[31m:smile:\n\udc80")
    table.main(["", str(runs)])
    out = capsys.readouterr().out
    assert r"[red]\x1b[31m:smile:\n\udc80  " in out
    assert "\x1b" not in out


def test_comparison_of_two_runs(runs: Path, capsys: pytest.CaptureFixture, parsed_flags: None) -> None:
    run_file = runs / "linear/diverged/run.json"
    run_file.write_text(run_file.read_text().replace('"jax": "', '"jax": "0.'))
    with flagsaver.flagsaver(compare=True):
        table.main(["", str(runs / "finished"), str(runs / "linear/diverged")])
        header, *rows = capsys.readouterr().out.splitlines()
        table.main(["", str(runs / "finished"), str(runs / "finished")])
        assert capsys.readouterr().out == "no differences\n"
        with pytest.raises(UserError, match=r"run.json cannot be read"):
            table.main(["", str(runs / "finished"), str(runs / "linear/corrupted")])
    assert header.split() == ["field", str(runs / "finished"), str(runs / "linear/diverged")]
    shown = {row.split()[0]: row.split()[1:] for row in rows}
    assert shown["config.learning_rates"] == ["(0.01,", "0.1)", "(1.0,", "1e+38)"]
    assert shown["config.seed"] == ["0", "1"]
    assert shown["epochs"] == ["2", "1"]
    assert shown["state"] == ["finished", "diverged"]
    assert shown["versions.jax"][1] == f"0.{shown['versions.jax'][0]}"
    assert not {"config.batch_size", "dataset.sha256", "path"} & shown.keys()


@pytest.mark.parametrize(
    ("flags", "paths", "message"),
    [
        ({"where": ["model.bn=after"]}, ["."], r"--where is 'model.bn=after': expected FIELD=VALUE, where FIELD is a"),
        ({"where": ["state"]}, ["."], "--where is 'state': expected FIELD=VALUE"),
        ({"compare": True}, ["."], "--compare is given 1 paths: expected those of two runs"),
        ({}, ["nowhere"], "nowhere does not exist: expected a local directory of runs"),
        ({}, ["gs://mine/runs"], "gs://mine/runs does not exist: expected a local directory"),
    ],
)
def test_mistakes(flags: dict[str, Any], paths: list[str], message: str, parsed_flags: None) -> None:
    with flagsaver.flagsaver(**flags), pytest.raises(UserError, match=message):
        table.main(["", *paths])


def test_the_command(runs: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "digits_jax.runs", *arguments]
        return subprocess.run(command, cwd=runs, capture_output=True, text=True, timeout=60)

    done = run("linear", "--sort=-accuracy", "--where", "seed=1", "--where=state=diverged")
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 2)
    wrong = run("--sort=speed")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "--sort=speed: value should be one of <path|seed|" in wrong.stderr
