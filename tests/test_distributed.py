"""Two real processes of two devices each, on 127.0.0.1."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.processes import PROMISES, free_port, kill_one_of_two
from tests.chaos.workdir import outcome

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow

Start = Callable[..., list[subprocess.Popen]]


@pytest.fixture(scope="module")
def start(data_dir: Path) -> Iterator[Start]:
    """Starts the processes of one run, each with its flags, and ends what is left of them."""
    processes: list[subprocess.Popen] = []

    def start(workdir: Path, *flags: tuple[str, ...], devices: int = 2) -> list[subprocess.Popen]:
        address = f"127.0.0.1:{free_port()}"
        started = [
            subprocess.Popen(
                [
                    sys.executable, "-m", "digits_jax.main", "--config=configs/vgg.py",
                    "--config.model.widths=((8,),(8,))", "--config.epochs=1,1,1", "--config.execution.steps_per_call=2",
                    "--config.learning_rates=0.01,0.02,0.01",  # at 0.1 so thin a network multiplies the last bits
                    "--config.dataset.name=optical_digits",
                    f"--config.dataset.data_dir={data_dir}", f"--workdir={workdir}",
                    f"--coordinator={address}", f"--bind_address={address}", "--peer_timeout=10",
                    f"--num_processes={len(flags)}", f"--process_id={process}", *own,
                ],
                cwd=ROOT, env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)}, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
            for process, own in enumerate(flags)
        ]  # fmt: skip
        processes.extend(started)
        return started

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def finish(processes: list[subprocess.Popen]) -> tuple[list[int], list[str], list[str]]:
    """Exit codes, outputs and error outputs."""
    texts = [process.communicate(timeout=120) for process in processes]
    return [process.returncode for process in processes], [out for out, _ in texts], [err for _, err in texts]


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 100
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} does not come"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def undisturbed(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of two processes that nothing happened to."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    codes, outs, errors = finish(start(workdir, (), ()))
    assert codes == [0, 0], errors
    assert "best on the test set" in outs[0]
    # One writes; what is left in the other's output is JAX's transport.
    assert not re.search(r"seed|epoch|accuracy|trained", outs[1])
    return workdir


def assert_alike(ours: Path, theirs: Path) -> None:
    for row, other in zip(outcome(ours)["rows"], outcome(theirs)["rows"], strict=True):
        assert row == pytest.approx(other, rel=1e-2)


def test_two_processes_train_as_one_does(start: Start, undisturbed: Path, tmp_path: Path) -> None:
    assert len(json.loads((undisturbed / "run.json").read_text())["devices"]) == 4
    assert finish(start(tmp_path, ()))[0] == [0]
    assert_alike(undisturbed, tmp_path)


def test_one_killed_ends_the_other_and_both_go_on(start: Start, undisturbed: Path, tmp_path: Path) -> None:
    processes = start(tmp_path, (), ())
    wait_for(tmp_path / "checkpoints/23/SHA256SUMS")
    processes[1].kill()
    begin = time.monotonic()
    codes, _, errors = finish(processes)
    assert time.monotonic() - begin < 20
    lost = "error: process 1 is gone (connection closed); start all again to resume from the last checkpoint\n"
    assert (codes, errors[0]) == ([1, -signal.SIGKILL], lost)
    assert finish(start(tmp_path, (), ()))[0] == [0, 0]
    assert outcome(tmp_path) == outcome(undisturbed)


@pytest.mark.parametrize("kind", PROMISES)
def test_a_process_is_lost_at_any_moment(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    trial = kill_one_of_two(tmp_path, random.Random(time.time()), kind=kind, peer_timeout=2)
    assert trial["ok"], trial


def test_a_signal_to_one_stops_both_and_one_goes_on_alone(start: Start, undisturbed: Path, tmp_path: Path) -> None:
    processes = start(tmp_path, (), ())
    wait_for(tmp_path / "checkpoints/23/SHA256SUMS")
    processes[1].send_signal(signal.SIGTERM)
    codes, outs, errors = finish(processes)
    assert codes == [75, 75], errors
    assert "interrupted and saved" in outs[0]
    codes, outs, errors = finish(start(tmp_path, (), devices=1))
    assert codes == [0]
    assert "resuming from step" in outs[0]
    assert "may not be bit-identical" in errors[0]
    assert_alike(tmp_path, undisturbed)


@pytest.mark.usefixtures("small_dataset")  # prepares the data, of which a process would tell
@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.batch_size=32", "config.batch_size = 32, and process 0 has 64"),
        ("--config.dataset.train_examples=640", "config.dataset.train_examples = 640, and process 0 has 1437"),
    ],
)
def test_processes_that_were_told_different_things(start: Start, tmp_path: Path, flag: str, message: str) -> None:
    codes, _, errors = finish(start(tmp_path, (), (flag,)))
    assert codes == [1, 1]
    assert errors[0] == f"error: process 1: it has {message}: start all with the same\n"
    assert not (tmp_path / "checkpoints").exists()


def test_a_failure_of_process_0_ends_both(start: Start, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("no JSON")
    codes, _, errors = finish(start(tmp_path / "run", (), ()))
    assert codes == [1, 1]
    assert "run.json cannot be read" in errors[0]
    assert errors[1].startswith("error: process 0: ")
