"""Kills one of two nodes of a Ray cluster in the middle of a sweep, and compares the results with the local executor's.

python -m tests.ray_nodes

The nodes are network namespaces, and end with this command. Requires root.
"""

import contextlib
import os
import re
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from digits_jax import cli
from digits_jax.errors import UserError
from digits_jax.studies.results import read_results
from tests.hosts import Host, Network, missing
from tests.test_train import without_clock

ROOT = Path(__file__).parents[1]
_TIMEOUT = 600  # seconds for a sweep
_NUM_RUNS = 6
_SWEEP = '''"""Which rate is best, where dropout and augmentation draw numbers too?"""

from digits_jax.studies import Sweep

THIN = {
    "dataset.name": "optical_digits", "model.widths": ((8,), (8,)), "augment.rotation": 8.0, "epochs": (1, 3),
    "execution.steps_per_call": 4,
}


def get_sweep():
    variants = {f"rate {rate:g}": THIN | {"learning_rates": (0.01, rate)} for rate in (0.02, 0.05, 0.1)}
    return Sweep("configs/bn_dropout.py", variants, baseline="rate 0.02", num_seeds=2)
'''


@contextlib.contextmanager
def cluster(*, cpus: int = 2) -> Iterator[tuple[dict[str, str], list[Host]]]:
    """Starts two hosts with a node each, the head first; all their processes end with the context.

    Yields:
      The environment for a command on one of them, and the hosts.
    """
    env = {
        **os.environ,
        "RAY_ADDRESS": "10.0.0.1:6379",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    with tempfile.TemporaryDirectory(prefix="ray") as folder, Network("node1", "node2") as network:
        hosts = [network.boot("node1"), network.boot("node2")]
        for number, host in enumerate(hosts, start=1):
            place = ("--head", "--port=6379", "--include-dashboard=false") if number == 1 else ("--address=node1:6379",)
            command = [
                sys.executable, "-m", "ray.scripts.scripts", "start", *place, f"--node-ip-address=10.0.0.{number}",
                f"--num-cpus={cpus}", f"--object-store-memory={80 * 2**20}", f"--temp-dir={folder}/{number}",
            ]  # fmt: skip
            started = host.start(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            said, _ = started.communicate(timeout=_TIMEOUT)
            if started.returncode:
                raise RuntimeError(f"{host.name} does not start: {said}")
        yield env, hosts


@contextlib.contextmanager
def started(
    folder: Path, env: dict[str, str], *arguments: str, start: Callable[..., subprocess.Popen] = subprocess.Popen
) -> Iterator[subprocess.Popen]:
    """The sweep of six runs, with its results and workdirs in the folder; ends when left, or when it takes too long."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rates.py").write_text(_SWEEP)
    sweep = start(
        [
            sys.executable, "-m", "digits_jax.studies.sweep", f"--sweep={folder}/rates.py",
            f"--results={folder}/results", f"--runs={folder}/runs", *arguments,
        ],
        cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    watchdog = threading.Timer(_TIMEOUT, sweep.kill)
    watchdog.start()
    try:
        yield sweep
    finally:
        watchdog.cancel()
        sweep.kill()
        sweep.wait()


def under_way(folder: Path) -> dict[str, int]:
    """By their hashes, how many epochs those runs have finished that are not at their end."""
    files = [file for file in folder.glob("runs/*/*/metrics.jsonl") if not (file.parent / "result.json").exists()]
    return {file.parent.name: file.read_text().count("\n") for file in files}


def _event_files(folder: Path) -> dict[str, str]:
    """By their hashes, what names when a process last began or went on with a run."""
    return {file.parent.parent.name: file.name for file in folder.glob("runs/*/*/tensorboard/*")}


def figures(folder: Path) -> dict[str, Any]:
    """By their hashes, the results of all runs without what a clock decides."""
    keys = ("state_sha256", "test_errors", "cores", "devices")
    return {
        result["config_hash"]: ([result[key] for key in keys], without_clock(result["epochs"]))
        for result in read_results([folder / "results" / "rates"])
    }


def lose_a_node(folder: Path) -> list[str]:
    """Trains the sweep here and on two nodes of which one is lost, says what happens, and returns what went wrong."""
    begin = time.monotonic()

    def say(text: str) -> str:
        print(f"{time.monotonic() - begin:6.1f} s  {text}", flush=True)
        return text

    def listen(sweep: subprocess.Popen) -> list[str]:
        lines = [say(line.rstrip()) for line in sweep.stdout]
        say(f"exit code {sweep.wait()}")
        if sweep.returncode:
            problems.append(f"a sweep exits with {sweep.returncode}")
        return lines

    problems: list[str] = []
    say("-- the local executor")
    with started(folder / "local", dict(os.environ)) as sweep:
        listen(sweep)
    say("-- two Ray nodes of two CPUs each, on hosts of their own; the same sweep with --executor=ray --ray_cpus=2")
    options = ("--executor=ray", "--ray_cpus=2")
    with cluster() as (env, (first, second)), started(folder / "ray", env, *options, start=first.start) as sweep:
        while sweep.poll() is None and sum(epochs > 0 for epochs in under_way(folder / "ray").values()) < 2:
            time.sleep(0.01)
        epochs, event_files = under_way(folder / "ray"), _event_files(folder / "ray")
        second.kill()
        say(f"-- killed node2, when this many epochs were through: {epochs}")
        lines = listen(sweep)
    begun_again = [name for name, file in event_files.items() if _event_files(folder / "ray")[name] != file]
    say(f"-- begun again on the other node: {begun_again}")
    if len(begun_again) != 1 or begun_again[0] not in epochs:
        problems.append("not one of the runs that were under way was begun again")
    finished = [line.partition(":")[0] for line in lines if re.match(r"rate .*, seed \d: \d", line)]
    if len(finished) != _NUM_RUNS or len(set(finished)) != _NUM_RUNS:
        problems.append(f"not every run is finished once, but {finished}")
    ours, theirs = figures(folder / "ray"), figures(folder / "local")
    same = sum(ours[name] == theirs[name] for name in ours.keys() & theirs.keys())
    say(f"-- {same} of {len(theirs)} results equal the local executor's: state, epochs, wrong images, cores")
    if ours != theirs or len(ours) != _NUM_RUNS:
        problems.append("the results are not the local executor's")
    return problems


def main(argv: list[str]) -> int:
    if reason := missing():
        raise UserError(reason)
    with tempfile.TemporaryDirectory() as folder:
        problems = lose_a_node(Path(folder))
    print("\n".join(problems) or "all as it should be")
    return len(problems)


if __name__ == "__main__":
    cli.run(main)
