"""What a node does with a group of runs; in this process, and without Ray."""

import json
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import filelock
import pytest

from digits_jax.errors import DivergedError
from digits_jax.studies.sweep import ray_executor
from digits_jax.studies.sweep.ray_executor import Outcome, Trial
from tests.test_sweep import create_tasks


def test_trials_pin_to_cores_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs Linux and two cores")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(ray_executor, "_locks", [])
    cores = sorted(os.sched_getaffinity(0))
    found: list[set[int]] = []

    def keep(count: int) -> None:
        ray_executor.pin_to_cores(count)
        found.append(os.sched_getaffinity(0))

    for count in (len(cores), 1, len(cores) - 1, 1):
        thread = threading.Thread(target=keep, args=[count])  # each has an affinity of its own
        thread.start()
        thread.join()
    everything, first, others, shared = found
    assert everything == set(cores)
    assert len(first) == 1
    assert others == set(cores) - first
    assert len(shared) == 1  # none is left


@pytest.fixture
def trial(write_sweep: Callable[..., str], tmp_path: Path) -> Trial:
    """The first run of a tiny sweep, as a node gets it."""
    _, tasks = create_tasks(write_sweep(), tmp_path)
    return Trial(
        runs=[tasks[0].run],
        folder=tasks[0].folder,
        sha256=tasks[0].dataset.sha256,
        start=os.getcwd(),
        cores=10_000,  # this process keeps what it has
        deadline=math.inf,
    )


def test_a_node_trains_and_tells(trial: Trial) -> None:
    told: list[str] = []
    outcome = ray_executor.train(trial, told.append)
    assert outcome.error is None
    assert [result["config_hash"] for result in outcome.results or []] == [trial.runs[0].hash]
    assert told == ["epoch 1/1", "epoch 1/1"]
    # The run is finished: another node that finds its workdir says the same.
    assert ray_executor.train(trial, told.append).results == outcome.results


def test_a_node_begins_nothing_too_late(trial: Trial) -> None:
    assert ray_executor.train(trial._replace(deadline=time.time()), print) == Outcome()
    assert not Path(trial.folder).exists()


def test_a_node_with_other_data_says_so(trial: Trial) -> None:
    outcome = ray_executor.train(trial._replace(sha256="0" * 64), print)
    assert outcome.results is None
    assert "optical_digits has the hash " in str(outcome.error)
    assert f"{'0' * 64} where the sweep was started: expected the same data" in str(outcome.error)


def test_what_a_node_warns_of_comes_back(trial: Trial, capsys: pytest.CaptureFixture[str]) -> None:
    ray_executor.train(trial, print)
    run_file = Path(trial.folder, trial.runs[0].hash, "run.json")
    run_file.write_text(json.dumps({**json.loads(run_file.read_text()), "cores": 999}))
    assert "cores from 999 to" in ray_executor.train(trial, print).stderr
    assert "cores from 999 to" not in capsys.readouterr().err


def test_a_node_waits_for_what_a_lost_one_still_has(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(trial.folder, trial.runs[0].hash)
    folder.mkdir(parents=True)
    lock = filelock.FileLock(folder / "lock")
    lock.acquire()
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            lock.release()

    clock = SimpleNamespace(sleep=sleep, time=time.time, monotonic=time.monotonic)
    monkeypatch.setattr(ray_executor, "time", clock)  # only its own: other threads sleep, too
    assert ray_executor.train(trial, print).results
    assert len(slept) == 2
    lock.acquire()
    monkeypatch.setattr(ray_executor, "_IN_USE", -1)
    assert "is in use by another process" in str(ray_executor.train(trial, print).error)
    lock.release()


def test_a_run_that_diverges_comes_back_as_an_error(write_sweep: Callable[..., str], trial: Trial) -> None:
    wild = '"low": SMALL | {"learning_rates": (1e38,)}'
    _, tasks = create_tasks(write_sweep("wild", variants=wild, num_seeds="1"), Path(trial.folder))
    outcome = ray_executor.train(trial._replace(runs=[tasks[0].run]), print)
    assert isinstance(outcome.error, DivergedError)
