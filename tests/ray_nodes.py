"""Kills one of two nodes of a Ray cluster in the middle of a sweep, and compares the results with the local executor's.

python -m tests.ray_nodes

The nodes are processes on 127.0.0.1, and end with this command.
"""

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from digits_jax import cli
from digits_jax.studies.results import read_results
from tests.test_distributed import free_port
from tests.test_train import without_clock

ROOT = Path(__file__).parents[1]
_TIMEOUT = 300  # seconds for a sweep
_NUM_RUNS = 6
_SWEEP = '''"""Which rate is best, where dropout and augmentation draw numbers too?"""

from digits_jax.studies import Sweep

THIN = {
    "dataset.name": "optical_digits", "model.widths": ((8,), (8,)), "augment.rotation": 8.0, "epochs": (1, 3),
    "steps_per_call": 4,
}


def get_sweep():
    variants = {f"rate {rate:g}": THIN | {"learning_rates": (0.01, rate)} for rate in (0.02, 0.05, 0.1)}
    return Sweep("configs/bn_dropout.py", variants, baseline="rate 0.02", num_seeds=2)
'''
# The command `ray`, which would otherwise replace 127.0.0.1 by the machine's address in its network.
_RAY = """
from ray._private import services
services.get_node_ip_address = lambda address=None: "127.0.0.1"
from ray.scripts.scripts import main
main()
"""


@contextlib.contextmanager
def cluster(count: int, *, cpus: int = 2) -> Iterator[tuple[dict[str, str], list[subprocess.Popen]]]:
    """So many nodes on 127.0.0.1, the head first; all their processes end when left.

    Yields:
      The environment for a command that is to use them, and the nodes.
    """
    port = free_port()
    env = {
        **os.environ,
        "RAY_ADDRESS": f"127.0.0.1:{port}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    with tempfile.TemporaryDirectory(prefix="ray") as folder, contextlib.ExitStack() as at_exit:
        nodes = []
        for number in range(count):
            place = ("--head", f"--port={port}", "--include-dashboard=false") if number == 0 else (
                f"--address=127.0.0.1:{port}",
            )  # fmt: skip
            node = subprocess.Popen(
                [
                    sys.executable, "-c", _RAY, "start", *place, "--node-ip-address=127.0.0.1", f"--num-cpus={cpus}",
                    f"--object-store-memory={80 * 2**20}", f"--temp-dir={folder}/{number}", "--block",
                ],
                env=env, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            at_exit.callback(kill, node)
            nodes.append(node)
            said = ""
            while "block forever" not in said:
                line = node.stdout.readline()
                if not line:
                    raise RuntimeError(f"node {number} does not start: {said}")
                said += line
        yield {**env, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}, nodes  # which does what `_RAY` does


def kill(node: subprocess.Popen) -> int:
    """Ends all processes of a node at once, as a loss of power does; returns how many they were."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    pids = [node.pid] if node.poll() is None else []
    for pid in pids:
        pids += children.get(pid, [])
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    node.wait(10)
    return len(pids)


@contextlib.contextmanager
def started(folder: Path, env: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen]:
    """The sweep of six runs, with its results and workdirs in the folder; ends when left, or when it takes too long."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rates.py").write_text(_SWEEP)
    sweep = subprocess.Popen(
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
    say("-- two Ray nodes of two CPUs each on 127.0.0.1, and the same sweep with --executor=ray --ray_cpus=2")
    with cluster(2) as (env, (_, second)), started(folder / "ray", env, "--executor=ray", "--ray_cpus=2") as sweep:
        while sweep.poll() is None and sum(epochs > 0 for epochs in under_way(folder / "ray").values()) < 2:
            time.sleep(0.01)
        epochs, event_files = under_way(folder / "ray"), _event_files(folder / "ray")
        say(f"-- killed all {kill(second)} processes of a node, when this many epochs were through: {epochs}")
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
    with tempfile.TemporaryDirectory() as folder:
        problems = lose_a_node(Path(folder))
    print("\n".join(problems) or "all as it should be")
    return len(problems)


if __name__ == "__main__":
    cli.run(main)
