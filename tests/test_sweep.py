"""Sweeps: what they ask for, what is trained, what is recognised, and what survives."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from absl.testing import flagsaver

from digits_jax import train_loop as train
from digits_jax.errors import ConfigError, UserError
from digits_jax.evaluate import Scores, evaluate
from digits_jax.runs.interrupts import Interrupted
from digits_jax.runs.workdir import Workdir, describe_run
from digits_jax.storage import read_facts, write_manifest
from digits_jax.studies.report.page import build_page
from digits_jax.studies.report.study import read_study
from digits_jax.studies.results import add_results, read_diverged, read_results
from digits_jax.studies.sweep import Sweep, load_sweep
from digits_jax.studies.sweep import __main__ as sweep
from digits_jax.studies.sweep import tasks as sweep_tasks
from tests.conftest import RATES
from tests.test_report import make_result
from tests.test_train import press_ctrl_c, without_clock

ROOT = Path(__file__).parents[1]


def create_tasks(file: str, folder: Path, **options: Any) -> tuple[Sweep, list[sweep_tasks.Task]]:
    loaded = load_sweep(file)
    return loaded, sweep_tasks.create_tasks(loaded, results=folder / "results", runs=folder / "runs", **options)


def finish(file: str, folder: Path, **options: Any) -> list[str]:
    """Trains what is left, and returns how each task stood before."""
    loaded, tasks = create_tasks(file, folder, **options)
    before = [task.status for task in tasks]
    assert [task.status for task in sweep_tasks.run_tasks(loaded, tasks)] == ["done"] * before.count("waiting")
    return before


def figures(folder: Path) -> dict[str, Any]:
    """By config hash, all that a clock does not decide."""
    return {r["config_hash"]: (without_clock(r["epochs"]), r["test_errors"]) for r in read_results([folder])}


def test_a_sweep_leaves_a_result_file_for_each_run(write_sweep: Callable[..., str], tmp_path: Path) -> None:
    assert finish(write_sweep(), tmp_path) == ["waiting"] * 4
    results = read_results([tmp_path / "results" / "rates"])
    runs = sorted((result["variant"], result["config"]["seed"]) for result in results)
    assert runs == [("high", 0), ("high", 1), ("low", 0), ("low", 1)]
    for result in results:
        assert result["sweep"]["question"] == "Is a higher rate better?"
        assert result["config"]["learning_rates"] == [0.1 if result["variant"] == "high" else 0.01]
        assert len(result["epochs"]) == 1
    text = (tmp_path / "results/rates/results.jsonl").read_text()
    assert len(text.splitlines()) == 1 + 4
    assert len(text) < 5500
    assert os.uname().nodename not in text
    assert str(tmp_path) not in text
    assert '"/' not in text


@pytest.mark.slow
def test_the_command_of_a_run_is_that_run(write_sweep: Callable[..., str], tmp_path: Path) -> None:
    _, tasks = create_tasks(write_sweep(), tmp_path)
    command = tasks[0].run.command.replace("python", sys.executable, 1)
    process = subprocess.run(
        f"{command} --workdir={tasks[0].folder}/{tasks[0].run.hash}",
        shell=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    # It lies where `digits_jax.main` would put it, and is recognised.
    assert finish(write_sweep(), tmp_path) == ["reused", "waiting", "waiting", "waiting"]


def test_finished_runs_are_not_trained_again(
    write_sweep: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(write_sweep(), tmp_path)
    other = write_sweep("others", variants=RATES + ', "none": SMALL | {"learning_rates": (1e-9,)}', num_seeds="1")
    assert finish(other, tmp_path) == ["reused", "reused", "waiting"]
    monkeypatch.setattr(train, "train_seeds", None)
    before = {path: path.read_bytes() for path in tmp_path.glob("results/*/results.jsonl")}
    assert finish(write_sweep(), tmp_path) == ["done"] * 4
    assert finish(other, tmp_path) == ["done"] * 3
    assert {path: path.read_bytes() for path in tmp_path.glob("results/*/results.jsonl")} == before


@pytest.mark.slow
def test_two_shards_do_what_one_process_does(write_sweep: Callable[..., str], tmp_path: Path) -> None:
    file = write_sweep()
    finish(file, tmp_path / "one")
    assert len(finish(file, tmp_path / "two", shard=(0, 2))) == 2
    assert len(finish(file, tmp_path / "two", shard=(1, 2))) == 2
    assert figures(tmp_path / "one/results/rates") == figures(tmp_path / "two/results/rates")


def start(file: str, folder: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "digits_jax.studies.sweep", f"--sweep={file}", f"--results={folder / 'results'}",
         f"--runs={folder / 'runs'}", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_killed_and_started_again(write_sweep: Callable[..., str], tmp_path: Path) -> None:
    rates = ", ".join(f'"{rate}": SMALL | {{"learning_rates": ({rate},), "epochs": (20,)}}' for rate in (0.01, 0.02))
    file = write_sweep(variants=rates, baseline="0.01", num_seeds="1")
    undisturbed = start(file, tmp_path / "a")
    _, err = undisturbed.communicate(timeout=180)
    assert undisturbed.returncode == 0, err
    kills = 0
    # Killed once while the first run is under way, and once after its result is there.
    for until in ("runs/*/*/metrics.jsonl", "results/*/results.jsonl"):
        process = start(file, tmp_path / "b")
        while process.poll() is None and not list((tmp_path / "b").glob(until)):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        kills += process.returncode == -signal.SIGKILL
    assert kills == 2
    process = start(file, tmp_path / "b")
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert "1 done" in out
    assert figures(tmp_path / "a/results/rates") == figures(tmp_path / "b/results/rates")


@pytest.mark.slow
def test_a_budget_ends_it_between_two_runs(write_sweep: Callable[..., str], tmp_path: Path) -> None:
    process = start(write_sweep(num_seeds="1"), tmp_path, "--budget=0")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert re.search(r"rates: 2 runs, 0 done, 0 reused from elsewhere, 2 to train in about \d+ s\n", out)
    assert (
        "stopped after --budget=0 minutes, 1 runs are left; resume with\n  python -m digits_jax.studies.sweep " in out
    )
    assert len(read_results([tmp_path / "results"])) == 1


def test_ctrl_c_after_the_last_step_of_a_run_ends_the_sweep(
    write_sweep: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pressed = False

    def evaluate_with_ctrl_c(*args: Any) -> list[Scores]:
        nonlocal pressed
        if not pressed:  # a second would interrupt at once
            pressed = True
            press_ctrl_c()
        return evaluate(*args)

    loaded, tasks = create_tasks(write_sweep(), tmp_path)
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(train, "evaluate", evaluate_with_ctrl_c)
        with pytest.raises(Interrupted):
            list(sweep_tasks.run_tasks(loaded, tasks))
    assert signal.getsignal(signal.SIGINT) is handler
    # It is finished; no other was begun.
    assert [task.run.variant for task in tasks if task.status != "waiting"] == ["low"]
    assert Counter(finish(write_sweep(), tmp_path)) == {"done": 1, "waiting": 3}


def test_a_variant_has_its_own_base_and_number_of_seeds(write_sweep: Callable[..., str], tmp_path: Path) -> None:
    logged = '"logged": SMALL | {"config": "configs/linear.py:as_logged", "num_seeds": 3}'
    _, tasks = create_tasks(write_sweep(variants=f'"low": SMALL, {logged}'), tmp_path)
    runs = [(task.run.seed, task.run.variant, task.run.config.test_stream) for task in tasks]
    assert runs == [
        (0, "low", False), (0, "logged", True), (1, "low", False), (1, "logged", True), (2, "logged", True)
    ]  # fmt: skip
    assert "--config=configs/linear.py:as_logged" in tasks[1].run.command
    assert "num_seeds" not in tasks[1].run.command


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"doc": ""}, "the docstring is missing: expected the question that the sweep asks"),
        ({"variants": ""}, r"variants is \{\}: expected at least one"),
        ({"baseline": "lwo"}, "baseline is .lwo.: expected one of low, high"),
        ({"num_seeds": "0"}, "num_seeds is 0: expected an integer >= 1"),
        ({"variants": '"low": SMALL | {"num_seeds": 0.5}'}, "num_seeds is 0.5: expected an integer >= 1"),
        ({"num_seeds": "zero"}, "rates.py, line 12: NameError: name 'zero' is not defined"),
        ({"config": "configs/nope.py"}, "config file 'configs/nope.py' not found: expected the path of one, or one of"),
        ({"config": "configs/vgg.py:fast"}, "unknown config argument 'fast': expected one of .*'as_logged'"),
        ({"variants": '"low": {"sede": 1}'}, "sweep rates, variant 'low': unknown config field 'sede'"),
        ({"variants": '"low": {"model": 1}'}, "sweep rates, variant 'low': config field 'model' is 1, a value of typ"),
        ({"variants": '"low": {"batch_size": 0}'}, "sweep rates, variant 'low': config.batch_size is 0: expected an"),
        ({"variants": '"low": SMALL, "same": SMALL'}, "the variants 'low' and 'same' are the same config"),
        ({"variants": '"low": SMALL | {"seed": 3}'}, "variant 'low': it sets seed, which num_seeds of the sweep does"),
    ],
)
def test_a_sweep_that_makes_no_sense(
    write_sweep: Callable[..., str], tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        create_tasks(write_sweep(**changes), tmp_path)


def test_a_missing_sweep(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nope.py: no such file"):
        load_sweep(str(tmp_path / "nope.py"))
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ConfigError, match=r"empty.py: expected a function get_sweep\(\)"):
        load_sweep(str(tmp_path / "empty.py"))


def test_a_sweep_whose_name_would_be_no_name(write_sweep: Callable[..., str]) -> None:
    with pytest.raises(ConfigError, match=r'my rates.py: name is "my rates": expected a name, such as vgg'):
        load_sweep(write_sweep("my rates"))


def test_results_that_cannot_be_written_stop_it_before_it_trains(
    write_sweep: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "results").touch()
    with pytest.raises(UserError, match=r"results.jsonl cannot be written \(.*\): give another --results"):
        create_tasks(write_sweep(), tmp_path)


def test_an_edited_variant_is_refused_by_every_shard(write_sweep: Callable[..., str], tmp_path: Path) -> None:
    loaded, (_, high) = create_tasks(write_sweep(num_seeds="1"), tmp_path)
    result = make_result("high", 0, 0.9) | describe_run(high.run.config, high.dataset) | {"test_errors": [7]}
    add_results(high.results_file, [result | {"sweep": loaded._asdict()}])
    edited = write_sweep(num_seeds="1", variants=RATES.replace("(0.1,)", "(0.2,)"))
    message = r"has variant 'high' with config.learning_rates = \(0.1,\), this one has \(0.2,\): give another --results"
    for shard in ((0, 2), (1, 2)):
        with pytest.raises(UserError, match=message):
            create_tasks(edited, tmp_path, shard=shard)


@pytest.mark.usefixtures("parsed_flags")
def test_results_on_a_bucket() -> None:
    with (
        flagsaver.flagsaver(sweep="configs/sweeps/hidden_dropout.py", results="gs://mine/results"),
        pytest.raises(ConfigError, match="--results is 'gs://mine/results': expected a local folder"),
    ):
        sweep.main([])


@pytest.mark.parametrize("text", ["1", "2/2", "-1/2", "0/0", "a/b", "1/2/3"])
def test_a_wrong_shard(text: str) -> None:
    with pytest.raises(ConfigError, match=f"--shard is '{text}': expected i/n"):
        sweep.parse_shard(text)


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("dataset", "sha256", "0" * 64, "dataset.sha256 = '0000"),
        # The hash is of what differs from the defaults, which may change.
        ("config", "eval_batch_size", 7, "config.eval_batch_size = 7, this one has 64: give another --results"),
    ],
)
def test_results_of_another_run_are_refused(
    write_sweep: Callable[..., str], tmp_path: Path, section: str, field: str, value: Any, message: str
) -> None:
    file = write_sweep(num_seeds="1", variants='"low": SMALL')
    finish(file, tmp_path)
    path = tmp_path / "results/rates/results.jsonl"
    (result,) = read_results([path])
    result[section][field] = value
    path.unlink()
    add_results(path, [result])
    with pytest.raises(UserError, match=message):
        create_tasks(file, tmp_path)
    # Elsewhere, such a run is none of this sweep's.
    path.parent.rename(tmp_path / "results/others")
    (tmp_path / "runs/linear" / result["config_hash"] / "result.json").unlink()
    assert [task.status for task in create_tasks(file, tmp_path)[1]] == ["waiting"]


def test_a_field_declared_later_changes_no_finished_run(write_sweep: Callable[..., str], tmp_path: Path) -> None:
    file = write_sweep(num_seeds="1", variants='"low": SMALL')
    finish(file, tmp_path)
    path = tmp_path / "results/rates/results.jsonl"
    (result,) = read_results([path])
    (run_file,) = tmp_path.glob("runs/*/*/run.json")
    recorded = json.loads(run_file.read_text())
    for config in (result["config"], recorded["config"]):
        del config["execution"]["microbatch_size"], config["augment"]["zoom"]
    path.unlink()
    add_results(path, [result | {"config_hash": "recorded"}])
    run_file.write_text(json.dumps(recorded))
    workdir = Workdir(run_file.parent)
    workdir.read_run()
    for checkpoint in workdir.checkpoints.iterdir():  # as that version wrote them
        write_manifest(checkpoint, read_facts(checkpoint) | workdir.identity)
    assert [task.status for task in create_tasks(file, tmp_path)[1]] == ["done"]
    assert read_results([path])[0]["config_hash"] == "recorded"
    path.unlink()
    assert finish(file, tmp_path) == ["reused"]


def test_a_damaged_result_is_named(write_sweep: Callable[..., str], tmp_path: Path) -> None:
    file = write_sweep(num_seeds="1", variants='"low": SMALL')
    finish(file, tmp_path)
    path = tmp_path / "results/rates/results.jsonl"
    head, line = path.read_text().splitlines(keepends=True)
    path.write_text(head[:100])
    with pytest.raises(UserError, match=f"^{path}, line 1 cannot be read"):
        create_tasks(file, tmp_path)
    path.write_text(head + line.replace("test_errors", "errors"))
    with pytest.raises(UserError, match=rf"^{path}, line 2 cannot be read \(test_errors is missing: expected .*\)$"):
        create_tasks(file, tmp_path)


def test_an_edited_or_foreign_result_is_not_reused(write_sweep: Callable[..., str], tmp_path: Path) -> None:
    file = write_sweep(num_seeds="1", variants='"low": SMALL')
    finish(file, tmp_path)
    shutil.rmtree(tmp_path / "results")
    (result,) = tmp_path.glob("runs/*/*/result.json")
    content, manifest = result.read_text(), result.parent / "checkpoints/4/SHA256SUMS"
    result.write_text(content.replace('"test/accuracy": 0.', '"test/accuracy": 0.0'))
    with pytest.raises(UserError, match=r"result.json was edited: its checksum is not that of its fields: remove it"):
        create_tasks(file, tmp_path)
    result.write_text(content)
    manifest.write_text(manifest.read_text().replace("# seed: 0", "# seed: 1"))
    with pytest.raises(UserError, match=r"result.json cannot be confirmed: the checkpoint of step 4 is of another run"):
        create_tasks(file, tmp_path)


def test_a_truncated_line_is_reported_and_its_run_trained_again(
    write_sweep: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_sweep(num_seeds="1")
    finish(file, tmp_path)
    path = tmp_path / "results/rates/results.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-20])
    assert [result["variant"] for result in read_results([path])] == ["low"]
    assert f"{path}, line 3 is truncated: its run is ignored" in capsys.readouterr().err
    assert finish(file, tmp_path) == ["done", "reused"]  # its workdir has the result
    assert path.read_text() == whole


@pytest.mark.slow
def test_the_readmes_ablation(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    shown = (ROOT / "configs" / "sweeps" / "hidden_dropout.py").read_text()
    assert len(shown.splitlines()) <= 15
    assert f"```python\n{shown}```\n" in (ROOT / "README.md").read_text()
    small = '"dataset.train_examples": 64, "dataset.name": "optical_digits", "model.widths": ((4,), (4,))'
    path = tmp_path / "hidden_dropout.py"
    path.write_text(shown.replace('"dataset.train_examples": 12_000', small))
    assert small in path.read_text()
    assert len(finish(str(path), tmp_path)) == 15
    assert len(read_results([tmp_path / "results" / "hidden_dropout"])) == 15


@pytest.mark.slow
def test_a_run_that_diverges_is_a_result(write_sweep: Callable[..., str], tmp_path: Path) -> None:
    variants = '"wild": SMALL | {"learning_rates": (1e38,)}, "low": SMALL'
    sweep = write_sweep(variants=variants, num_seeds="1", baseline="low")
    process = start(sweep, tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert re.search(r"wild, seed 0 diverged: the loss is nan at step 1 \(learning rate 1e\+38\).*apps.replay", err)
    assert "low, seed 0: " in out
    assert len(read_results([tmp_path / "results"])) == 1
    (diverged,) = read_diverged([tmp_path / "results"])
    assert (diverged["variant"], diverged["config"]["seed"]) == ("wild", 0)
    assert diverged["diverged"] == "the loss is nan at step 1 (learning rate 1e+38)"
    process = start(sweep, tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "2 runs, 1 done, 0 reused from elsewhere, 1 diverged, 0 to train" in out
    assert re.search(r"^ wild +0/1 +seed 0: diverged *$", out, re.MULTILINE)
    assert "\nresults in " in out
    study = read_study(tmp_path / "results")
    page, _ = build_page(study)
    assert "\n\n1 of 1 runs of **wild** diverged (seed 0: the loss is nan at step 1 (learning rate 1e+38))." in page


class Clock:
    """A clock that only the test moves, in place of the module `time`."""

    now = 0.0

    def time(self) -> float:
        return self.now

    perf_counter = monotonic = time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(sweep_tasks, "time", clock)
    return clock


def test_a_short_call_is_repeated_and_interruptions_count(clock: Clock) -> None:
    disturbed = [1 / 64, 1 / 64, 1 / 64, 61 / 64]  # by another process, in a second of four calls
    durations = disturbed * 10

    def call() -> None:
        clock.now += durations.pop(0)

    assert sweep_tasks.mean_seconds(call) == 1 / 64
    durations = disturbed * 10
    assert sweep_tasks.mean_seconds(call, at_least=2.0) == 1 / 4
    assert len(durations) == 32


def test_an_estimate_has_the_start_and_the_end_of_each_epoch(
    write_sweep: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, tasks = create_tasks(write_sweep(variants='"low": SMALL, "long": SMALL | {"epochs": (3,)}'), tmp_path)
    measured = []

    def measure(experiment: Any, num_replicas: int) -> sweep_tasks.Costs:
        measured.append(num_replicas)
        return sweep_tasks.Costs(start=10.0, step=0.5, epoch_end=1.0)  # 64 images: 4 steps

    monkeypatch.setattr(sweep_tasks, "measure", measure)
    sweep_tasks.estimate(tasks)
    assert {task.run.variant: task.estimate for task in tasks} == {"low": 10 + 3, "long": 10 + 3 * 3}
    assert measured == [1, 1]  # seeds share a program
    sweep_tasks.estimate(tasks, at_once=2)
    assert tasks[0].estimate == 13 / 2


def test_finished_runs_refine_the_estimates_of_their_variant(
    write_sweep: Callable[..., str], tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, tasks = create_tasks(write_sweep(num_seeds="3"), tmp_path)
    for task in tasks:
        task.estimate = 1.0
    monkeypatch.setattr(sweep_tasks, "_publish", lambda *_: None)
    by_name = {(task.run.variant, task.run.seed): task for task in tasks}
    for seed, (first, seconds) in enumerate([("epoch 1/2", 5.0), ("epoch 1/2", 7.0), ("epoch 2/2", 0.1)]):
        sweep_tasks.set_status([by_name["low", seed]], first)
        clock.now += seconds / 2
        sweep_tasks.set_status([by_name["low", seed]], "epoch 2/2")
        clock.now += seconds / 2
        sweep_tasks.finish(loaded, [by_name["low", seed]], [{}])
        sweep_tasks.refine(tasks, at_once=2)
        expected = 2.5 if seed == 0 else 3.0  # the third was resumed, and says nothing of a whole run
        assert by_name["low", 2].estimate == pytest.approx(expected)
    assert [by_name["high", seed].estimate for seed in range(3)] == [1.0] * 3
