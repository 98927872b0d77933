"""A Cloud TPU of two hosts with two processes each, emulated: `python -m tests.emulated_pod` prints a transcript.

Each host is a network namespace with a home directory and a host name of its own. A `gcloud` on the PATH creates,
describes and deletes them, copies files to them and runs commands on them, with the exit codes and error messages of
the real one. The bucket is that of an emulator on the namespaces' bridge. JAX's processes find each other by SLURM's
variables, which stand in for a TPU's metadata server. Requires root and iproute2.
"""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).parents[1]
NUM_HOSTS, PROCESSES_PER_HOST = 2, 2
TPU = ("--zone=us-central2-b", "--type=v4-16", "--bucket=gs://digits")
TRAINING = (
    "--config=linear", "--config.dataset.name=optical_digits", "--config.execution.steps_per_call=2",
    "--config.epochs=2,2,2",
)  # fmt: skip
_FOLDER = "EMULATED_POD"  # environment variable: the directory of the pod that `gcloud` manages
_STOCKOUT = """\
Create request issued for: [digits]
Waiting for operation [projects/p/locations/us-central2-b/operations/o] to complete...failed.
ERROR: (gcloud.compute.tpus.tpu-vm.create) {
  "code": 8,
  "message": "There is no more capacity in the zone \\"us-central2-b\\"; you can try in another zone [EID: 0x1]"
}"""


class Pod:
    """The hosts, in a directory: `state`, of the TPU, and `0` and `1`, the hosts' home directories."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tag = re.sub(r"\W", "", folder.name)[-6:]  # interfaces have names of 15 characters
        self.bucket = ""  # address of the emulator

    @property
    def state(self) -> str:
        path = self.folder / "state"
        return path.read_text() if path.exists() else ""

    def namespace(self, host: int) -> str:
        return f"pod{self.tag}{host}"

    def address(self, host: int) -> str:
        return f"10.{int.from_bytes(self.tag.encode()[-2:]) % 250}.7.{10 + host}"

    def home(self, host: int) -> Path:
        return self.folder / str(host)

    @contextlib.contextmanager
    def network(self) -> Iterator[str]:
        """Connects the hosts' namespaces by a bridge, and yields its address."""
        bridge, address = f"br{self.tag}", self.address(-9)
        try:
            _ip(f"link add {bridge} type bridge")
            _ip(f"addr add {address}/24 dev {bridge}")
            _ip(f"link set {bridge} up")
            for host in range(NUM_HOSTS):
                namespace = self.namespace(host)
                _ip(f"netns add {namespace}")
                _ip(f"link add {namespace} type veth peer name eth0 netns {namespace}")
                _ip(f"link set {namespace} master {bridge} up")
                _ip(f"-n {namespace} addr add {self.address(host)}/24 dev eth0")
                _ip(f"-n {namespace} link set eth0 up")
                _ip(f"-n {namespace} link set lo up")
                names = Path("/etc/netns", namespace)  # what `ip netns exec` shows as /etc
                names.mkdir(parents=True)
                (names / "hosts").write_text(f"127.0.0.1 localhost\n{self.address(host)} pod-w-{host}\n")
            yield address
        finally:
            for host in range(NUM_HOSTS):
                self.kill(host)
                _ip(f"netns delete {self.namespace(host)}", check=False)
                shutil.rmtree(f"/etc/netns/{self.namespace(host)}", ignore_errors=True)
            _ip(f"link delete {bridge}", check=False)

    def processes(self, host: int) -> dict[int, bytes]:
        """Returns the environments of the processes of a host."""
        found = {}
        for pid in _ip(f"netns pids {self.namespace(host)}", check=False).split():
            with contextlib.suppress(OSError):
                found[int(pid)] = Path(f"/proc/{pid}/environ").read_bytes()
        return found

    def kill(self, host: int) -> None:
        for pid in self.processes(host):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill_process(self, number: int) -> None:
        """Kills one process of the training."""
        for pid, environment in self.processes(number // PROCESSES_PER_HOST).items():
            if f"SLURM_PROCID={number}".encode() in environment.split(b"\0"):
                os.kill(pid, signal.SIGKILL)

    def preempt(self, host: int) -> None:
        """Takes a host away, with its disk."""
        (self.folder / "state").write_text("PREEMPTED")
        self.kill(host)
        shutil.rmtree(self.home(host))

    def gcloud(self, *words: str) -> int:
        """Does what gcloud does; returns its exit code."""
        with (self.folder / "commands").open("a") as file:
            print(shlex.join(words), file=file)
        assert words[:2] == ("compute", "tpus"), words
        assert "--zone=us-central2-b" in words, words
        verb, arguments = words[3], [word for word in words[4:] if not word.startswith("--")]
        options = dict(word.removeprefix("--").partition("=")[::2] for word in words[4:] if word.startswith("--"))
        prefix = f"ERROR: (gcloud.compute.tpus.tpu-vm.{verb})"
        stockout = self.folder / "stockout"
        if verb == "create" and stockout.exists():
            stockout.unlink()
            return _fail(_STOCKOUT)
        if verb == "create" and not self.state:
            for host in range(NUM_HOSTS):
                self.home(host).mkdir()
            (self.folder / "state").write_text("READY")
        elif not self.state:
            return _fail(
                f"{prefix} NOT_FOUND: Resource 'projects/p/locations/us-central2-b/nodes/digits' was not found."
            )
        elif verb == "describe":
            print(self.state)
        elif verb == "delete":
            (self.folder / "state").unlink()
            for host in range(NUM_HOSTS):
                self.kill(host)
                shutil.rmtree(self.home(host), ignore_errors=True)
        elif self.state != "READY":
            return _fail(f'{prefix} This TPU has terminal state "{self.state}", so it cannot be used anymore.')
        elif verb == "scp":
            for host in range(NUM_HOSTS):
                for path in arguments[:-1]:
                    shutil.copy(path, self.home(host))
        else:
            hosts = range(NUM_HOSTS) if options["worker"] == "all" else [int(options["worker"])]
            running = [self._run(host, options["command"]) for host in hosts]
            return next((code for code in [process.wait() for process in running] if code), 0)
        return 0

    def _run(self, host: int, command: str) -> subprocess.Popen:
        script = f"hostname pod-w-{host}; cd; exec bash -c {shlex.quote(command)}"
        kept = {name: value for name, value in os.environ.items() if name.startswith(("JAX_", "XLA_", "TFDS_"))}
        environment = kept | {
            "HOME": str(self.home(host)), "PATH": f"{self.folder / 'worker_bin'}:/usr/bin:/bin",
            "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "FSSPEC_GCS": '{"token": "anon", "cache_timeout": 0}',
            "STORAGE_EMULATOR_HOST": os.environ["STORAGE_EMULATOR_HOST"], "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
            "SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": ",".join(map(self.address, range(NUM_HOSTS))),
            "SLURM_NTASKS": str(NUM_HOSTS * PROCESSES_PER_HOST), "SLURM_NODEID": str(host),
        }  # fmt: skip
        namespace = ["ip", "netns", "exec", self.namespace(host), "unshare", "--uts"]
        return subprocess.Popen([*namespace, "sh", "-c", script], env=environment, stdin=subprocess.DEVNULL)


def _ip(words: str, *, check: bool = True) -> str:
    done = subprocess.run(["ip", *words.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, (words, done.stderr)
    return done.stdout


def _fail(message: str) -> int:
    print(message, file=sys.stderr)
    return 1


def why_not() -> str:
    """Returns why there can be no pod on this machine, or ""."""
    if not sys.platform.startswith("linux") or os.geteuid() or not shutil.which("ip") or not shutil.which("unshare"):
        return "needs Linux, root, iproute2 and util-linux"
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        return "needs a clone of the repository"
    name = f"podtest{os.getpid()}"
    added = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "delete", name], capture_output=True)
    return added.stderr.strip()


@contextlib.contextmanager
def create_pod() -> Iterator[Pod]:
    """Yields the network and tools of a pod, which `gcloud` on the PATH then creates; its bucket is gs://digits."""
    from gcp_storage_emulator.server import create_server

    with tempfile.TemporaryDirectory(prefix="pod") as folder, contextlib.ExitStack() as stack:
        pod = Pod(Path(folder))
        address = stack.enter_context(pod.network())
        for name, command in (("bin/gcloud", "gcloud"), ("worker_bin/uv", "uv")):
            path = pod.folder / name
            path.parent.mkdir()
            path.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {command} "$@"\n')
            path.chmod(0o755)
        pod.bucket = f"http://{address}:9023"
        server = create_server(address, 9023, in_memory=True, default_bucket="digits")
        server.start()
        stack.callback(server.stop)
        yield pod


def launch(pod: Pod, name: str) -> subprocess.Popen:
    """Starts `./launch.sh tpu`, without installing."""
    command = [sys.executable, "-m", "digits_jax.apps.tpu", f"--name={name}", *TPU, "--dirty", "--", *TRAINING]
    path = f"{pod.folder / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, _FOLDER: str(pod.folder), "STORAGE_EMULATOR_HOST": pod.bucket}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def train_undisturbed(pod: Pod) -> str:
    """Returns what the launcher printed."""
    return _finish(launch(pod, "undisturbed"))


def train_disturbed(pod: Pod) -> str:
    """Kills the last process after an epoch, takes the last host away two epochs later; returns what was printed."""
    process = launch(pod, "disturbed")
    try:
        _wait_for_epoch(pod, process, 2)
        pod.kill_process(NUM_HOSTS * PROCESSES_PER_HOST - 1)
        _wait_for_epoch(pod, process, 4)
        pod.preempt(NUM_HOSTS - 1)
        return _finish(process)
    finally:
        process.kill()


def _finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def _wait_for_epoch(pod: Pod, launcher: subprocess.Popen, epoch: int) -> None:
    """Waits until the log of worker 0 has the line of an epoch."""
    deadline = time.monotonic() + 300
    log, text = pod.home(0) / "training" / "log", ""
    while not re.search(rf"^ *{epoch}/", text, re.MULTILINE):
        assert launcher.poll() is None, launcher.communicate()[0]
        assert time.monotonic() < deadline, text
        time.sleep(0.05)
        with contextlib.suppress(FileNotFoundError):
            text = log.read_text()


def download(pod: Pod, name: str, folder: Path) -> Path:
    """Copies a run from the bucket to a directory."""
    with urllib.request.urlopen(f"{pod.bucket}/storage/v1/b/digits/o?prefix={name}/") as answer:
        names = [item["name"] for item in json.load(answer)["items"]]
    for path in names:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(f"{pod.bucket}/download/storage/v1/b/digits/o/{quote(path, safe='')}") as answer:
            (folder / path).write_bytes(answer.read())
    return folder / name


def _print_transcript() -> None:
    quiet = contextlib.redirect_stderr(io.StringIO())  # the bucket's server reports clients that are killed
    with quiet, create_pod() as pod, tempfile.TemporaryDirectory() as folder:
        (pod.folder / "stockout").touch()
        for name, train in (("undisturbed", train_undisturbed), ("disturbed", train_disturbed)):
            print(f"$ ./launch.sh tpu --name={name} {' '.join(TPU)} -- {' '.join(TRAINING)}")
            print(train(pod))
            result = json.loads((download(pod, name, Path(folder)) / "result.json").read_text())
            print(f"{name} ended with state_sha256 {result['state_sha256']}\n")


def _install() -> None:
    """Stands in for uv: `.venv/bin/python` starts this interpreter once for each of the host's processes."""
    python = Path(".venv/bin/python")
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} python "$@"\n')
    python.chmod(0o755)


def _run_processes(arguments: list[str]) -> int:
    """Runs the processes of a host; returns their largest exit code."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # the processes get it, too
    first = int(os.environ["SLURM_NODEID"]) * PROCESSES_PER_HOST
    running = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, "SLURM_PROCID": str(first + local), "SLURM_LOCALID": str(local)},
        )
        for local in range(PROCESSES_PER_HOST)
    ]
    codes = [process.wait() for process in running]
    return max(code if code >= 0 else 128 - code for code in codes)


if __name__ == "__main__":
    command, *rest = sys.argv[1:] or ["transcript"]
    if command == "gcloud":
        sys.exit(Pod(Path(os.environ[_FOLDER])).gcloud(*rest))
    if command == "uv":
        sys.exit(_install() if rest[0] == "venv" else 0)
    if command == "python":
        sys.exit(_run_processes(rest))
    _print_transcript()
