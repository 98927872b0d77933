"""Runs docs/slurm.sh on a SLURM cluster of two nodes: undisturbed, to its time limit, and losing a node.

python -m tests.slurm_nodes

The nodes and their controller are network namespaces, and end with this command. Requires root, and slurmctld, slurmd
and munge as Debian packages them.
"""

import functools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from digits_jax import cli
from digits_jax.errors import UserError
from tests import hosts
from tests.chaos.workdir import ROOT, outcome

_TIMEOUT = 900  # seconds for a job
_DAEMONS = ("munged", "slurmctld", "slurmd")
# A node that does not answer is down after 30 seconds, instead of 300, and a job is requeued after 5, instead of 120.
_CONFIG = """
ClusterName=test
SlurmctldHost=control
SlurmUser=root
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmdTimeout=30
ReturnToService=2
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
StateSaveLocation={folder}/control
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/control.pid
SlurmdPidFile={folder}/%n.pid
NodeName=node1,node2 CPUs=2
PartitionName=all Nodes=ALL Default=YES
"""
_FLAGS = (
    "--config=bn_dropout", "--config.model.name=linear", "--config.dataset.name=optical_digits",
    "--config.epochs=20,20,20", "--config.learning_rates=0.01,0.02,0.01", "--config.execution.steps_per_call=2",
)  # fmt: skip
_SHOWN = ("seed", "interrupted", "error", "srun", "slurmstepd", "trained")  # how lines of a job's output begin


class Cluster:
    """SLURM's controller and two nodes, for as long as the context is open."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._env = {**os.environ, "SLURM_CONF": f"{folder}/slurm.conf"}
        self.nodes: dict[str, hosts.Host] = {}
        self._network = hosts.Network("control", "node1", "node2")

    def __enter__(self) -> "Cluster":
        for name in ("control", "node1", "node2"):
            (self.folder / name).mkdir()
        (self.folder / "slurm.conf").write_text(_CONFIG.format(folder=self.folder))
        (self.folder / "munge.key").write_bytes(os.urandom(128))
        (self.folder / "munge.key").chmod(0o400)
        files = [f"--{kind}-file={self.folder}/munge.{kind}" for kind in ("key", "pid", "log", "seed")]
        self._network.__enter__()
        self._control = self._network.boot("control")
        self._start(self._control, "munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", *files)
        wait_until((self.folder / "munge.socket").exists)
        self._start(self._control, "slurmctld", "-D")
        self.boot("node1")
        self.boot("node2")
        wait_until(lambda: self.run("sinfo", "-ho%D %T") == "2 idle")
        return self

    def __exit__(self, *_: object) -> None:
        self._network.__exit__()

    def boot(self, name: str) -> None:
        """Starts a node, also one that was killed before."""
        node = self._network.boot(name)
        self._start(node, "slurmd", "-D")
        self.nodes[name] = node

    def _start(self, host: hosts.Host, *command: str) -> None:
        with open(self.folder / f"{host.name}.log", "a") as log:
            host.start([*command], env=self._env, stdout=log, stderr=log)

    def run(self, *command: str) -> str:
        """Returns the output of a command on the controller's host."""
        process = self._control.start([*command], env=self._env, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        return process.communicate(timeout=60)[0].strip()

    def job(self, number: str) -> dict[str, str]:
        """Returns the fields of a job as SLURM shows them."""
        return dict(field.partition("=")[::2] for field in self.run("scontrol", "show", "job", number).split())


def wait_until(condition: Callable[[], Any]) -> None:
    """Returns once the condition is true; raises a UserError if that takes too long."""
    deadline = time.monotonic() + _TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise UserError(f"nothing happens within {_TIMEOUT} seconds")
        time.sleep(0.2)


def train(cluster: Cluster, name: str, disturb: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Submits docs/slurm.sh, prints what happens, and returns how the job ended and the outcome of its run.

    `disturb` is called with the job's number once five epochs are finished.
    """
    begin = time.monotonic()
    workdir, output = cluster.folder / name, cluster.folder / f"{name}.out"
    print(f"-- {name}: sbatch docs/slurm.sh", *_FLAGS, flush=True)
    submit = ("sbatch", "--parsable", f"--output={output}", "docs/slurm.sh")
    number = cluster.run(*submit, f"--workdir={workdir}", *_FLAGS)
    if disturb:
        rows = workdir / "metrics.jsonl"
        wait_until(lambda: rows.exists() and rows.read_text().count("\n") >= 5)
        disturb(number)
    wait_until(lambda: not cluster.run("squeue", "--noheader", "--jobs", number))
    print("\n".join(line for line in output.read_text().splitlines() if line.startswith(_SHOWN)))
    job = {field: cluster.job(number)[field] for field in ("JobState", "ExitCode", "Restarts")}
    print(f"-- after {time.monotonic() - begin:.0f} seconds: {job}", flush=True)
    found = outcome(workdir) if (workdir / "result.json").exists() else {"result": {}}
    found["result"].pop("git_revision", None)  # someone may commit meanwhile
    return {"job": job, "outcome": found}


def reach_time_limit(cluster: Cluster, number: str) -> None:
    """Shortens a job's time limit to the next minute, and restores it when the job is requeued."""
    minutes = int(cluster.job(number)["RunTime"].split(":")[-2])
    print(f"-- its time limit is set to {minutes + 1} minutes", flush=True)
    cluster.run("scontrol", "update", f"JobId={number}", f"TimeLimit={minutes + 1}")
    wait_until(lambda: cluster.job(number)["Restarts"] == "1")
    cluster.run("scontrol", "update", f"JobId={number}", "TimeLimit=60")


def lose_node(cluster: Cluster, number: str) -> None:
    """Kills the node that does not run the script, and starts it again when SLURM has requeued the job."""
    print("-- node2 is killed, and starts again when the job is requeued", flush=True)
    cluster.nodes["node2"].kill()
    wait_until(lambda: cluster.job(number)["Restarts"] == "1")
    cluster.boot("node2")


def main(argv: list[str]) -> int:
    lacking = [name for name in _DAEMONS if not shutil.which(name)]
    if reason := hosts.missing() or (lacking and f"needs {', '.join(lacking)}: apt-get install slurmctld slurmd munge"):
        raise UserError(reason)
    disturbances = {
        "node2_lost": lose_node,
        "time_limit": reach_time_limit,
    }
    problems = 0
    with tempfile.TemporaryDirectory() as folder, Cluster(Path(folder)) as cluster:
        expected = train(cluster, "undisturbed")
        for name, disturb in disturbances.items():
            found = train(cluster, name, functools.partial(disturb, cluster))
            good = found["outcome"] == expected["outcome"] and found["job"]["JobState"] == "COMPLETED"
            print("-- bit-identical to the undisturbed run" if good else "-- not as promised", flush=True)
            problems += not good
    return problems


if __name__ == "__main__":
    cli.run(main)
