"""A Cloud TPU and the training on its workers, through gcloud."""

import contextlib
import re
import shlex
import subprocess
import time
from dataclasses import dataclass
from typing import NamedTuple

from digits_jax import cli
from digits_jax.errors import UserError

POLL_SECONDS = 30
_MAX_FAILED_POLLS = 20  # in a row
_LOST = ("", "PREEMPTED", "TERMINATED", "FAILED", "SUSPENDED")  # states of a TPU or of its queued request
_UNUSABLE = ("STOPPED", "HIDDEN", "UNKNOWN")  # until someone acts
# Errors of `create` that may pass: stockouts, used quotas and Google's own. A quota of 0 is never available.
_TEMPORARY = re.compile(
    r"capacity|(quota (limit )?'|RESOURCE_EXHAUSTED)(?!.*limit:? 0\b)|internal error|UNAVAILABLE|DEADLINE_EXCEEDED|"
    r'state PREEMPTED|"code": (4|10|13|14)\b',
    re.IGNORECASE,
)

# Shell commands of the workers. ~/training holds the name of the installed code, the flags, log and exit code of
# training, and a lock that is held while any of its processes lives.
_STATUS = (
    "mkdir -p ~/training && cd ~/training && if flock --nonblock lock true; then "
    "state=$(cat stopped exit_code 2>/dev/null | head -n 1); else state=running; fi; "
    'echo "$(cat code 2>/dev/null || echo none) ${state:-lost} $(cat flags 2>/dev/null)"'
)
# uv installs a Python that is new enough. `git clean` keeps ignored files, hence .venv.
_INSTALL = (
    "rm -f ~/training/code && mkdir -p ~/digits_jax && cd ~/digits_jax && git init --quiet && "
    "git fetch --quiet ~/digits_jax.bundle HEAD && git checkout --quiet --force --detach FETCH_HEAD && "
    "git clean --quiet --force -d && if [ -s ~/digits_jax.patch ]; then git apply ~/digits_jax.patch; fi && "
    "export PATH=~/.local/bin:$PATH && if ! command -v uv; then python3 -m pip install --quiet --user uv; fi && "
    "./launch.sh setup tpu && echo {code} >~/training/code"
)
# A process that lost another one, or never met it, exits with 1, as one with unusable data does; here with 75, "try
# again".
_TRAIN = (
    "trap : TERM; echo $$ >pid; cd ~/digits_jax; .venv/bin/python -m digits_jax.main {flags}; code=$?; cd ~/training; "
    'if [ $code = 1 ] && tail -n 1 log | grep -Eq "start all again to resume|did not (come|answer)"; then code=75; fi; '
    "echo $code >exit_code"
)
_START = (
    "cd ~/training && exec 9>lock && flock --nonblock 9 && rm -f pid stopped exit_code && "
    "if [ -e log ]; then mv log log.$(date +%s); fi && printf '%s\\n' {flags} >flags && "
    "{{ setsid bash -c {train} >log 2>&1 </dev/null & }}"
)
_MARK = "\x1e"  # \036
_LOG = (
    "printf '\\036'; cd ~/training && "
    "timeout 20 tail --lines=+{first} --follow --pid=$(cat pid) --sleep-interval=0.2 log; true"
)
_LAST_LINES = 'cd ~/training && tail -n 5 log | sed "s/^/$(hostname): /"'
# A signal is lost that comes before there is a `pid`, or before bash has started Python.
_STOP = (
    "cd ~/training && if ! flock --nonblock lock true; then echo stopped >stopped; for _ in {1..120}; do "
    "kill -TERM -- -$(cat pid); if flock --timeout 5 lock true; then exit; fi; done; false; fi"
)


class GcloudError(UserError):
    """A gcloud command failed."""

    def __init__(self, words: tuple[str, ...], stderr: str) -> None:
        message = stderr[max(0, stderr.rfind("ERROR: ")) :]
        if not message.startswith("ERROR: "):  # a command on a worker failed, and gcloud only narrates
            lines = [line for line in message.splitlines() if not re.match(r"##### |SSH: |SCP: |Using |\s*$", line)]
            message = f"gcloud {words[0]} {words[1]} failed: {lines[-1] if lines else 'it gives no reason'}"
        super().__init__(" ".join(message.removeprefix("ERROR: ").split()))


class TryAgainError(Exception):
    """An attempt failed for a reason that may pass."""


class Worker(NamedTuple):
    code: str  # name of the installed code
    state: str  # of training: its exit code, "running", "stopped" by `stop`, or "lost" if it left no exit code
    flags: str  # of training


@dataclass
class Tpu:
    """A Cloud TPU. In a dry run, its commands are printed and assumed to succeed."""

    name: str
    zone: str
    type: str = ""
    version: str = ""
    spot: bool = False
    queued: bool = False
    dry_run: bool = False
    is_ours: bool = False  # to use and to delete
    is_training: bool = False

    def say(self, text: str) -> None:
        cli.console.print(f"[{self.name}] {text}")

    def get(self) -> None:
        """Waits until the TPU is ready; creates it if it does not exist or is lost."""
        created = False
        while (state := self.state()) != "READY":
            if state in _UNUSABLE:
                raise UserError(f"{self.name} is {state}: expected READY; ./launch.sh tpu delete deletes it")
            if state in _LOST:
                if created:
                    raise TryAgainError(f"it is {state or 'gone'}")
                if state:
                    self.delete()
                self._create()
                created = True
            else:
                self.say(f"waiting: it is {state}")
                time.sleep(POLL_SECONDS)

    def state(self) -> str:
        """Returns its state, else that of its queued request, or "" if there is none."""
        return self._describe("tpu-vm", "state") or (self.request_state() if self.queued else "")

    def request_state(self) -> str:
        """Returns the state of its queued request, or "" if there is none."""
        return self._describe("queued-resources", "state.state")

    def _describe(self, kind: str, field: str) -> str:
        words, assumed = (kind, "describe", self.name, f"--format=value({field})"), "READY" if self.is_ours else ""
        return self._gcloud(*words, assumed=assumed, may_be_missing=True).strip()

    def _create(self) -> None:
        self.say(f"creating a {self.type}")
        kind, version = ("queued-resources", "runtime-version") if self.queued else ("tpu-vm", "version")
        words = [kind, "create", self.name, f"--accelerator-type={self.type}", f"--{version}={self.version}"]
        words += [f"--node-id={self.name}"] * self.queued + ["--spot"] * self.spot
        self.is_ours = True  # also if this fails or is interrupted
        try:
            self._gcloud(*words)
        except GcloudError as error:
            if _TEMPORARY.search(str(error)):
                raise TryAgainError(str(error)) from None
            self.is_ours = False
            raise

    def delete(self) -> None:
        self.say("deleting it")
        words = ["queued-resources", "delete", self.name, "--force"] if self.queued else ["tpu-vm", "delete", self.name]
        try:
            self._gcloud(*words, may_be_missing=True)
        except GcloudError as error:
            raise UserError(f"{self.name} may still exist and cost money: {error}") from None

    def workers(self) -> list[Worker]:
        lines = self._ssh(_STATUS, assumed="none 0 \n").splitlines()
        return [Worker(*line.split(" ", 2)) for line in lines if line.count(" ") > 1]

    def install(self, code: str, files: list[str]) -> None:
        """Installs the code of a name, from the files of `pack`."""
        self.say(f"installing {code}")
        self._gcloud("tpu-vm", "scp", *files, f"{self.name}:", "--worker=all")
        self._ssh(_INSTALL.format(code=code))

    def start(self, flags: str) -> None:
        """Starts training, detached from this machine."""
        self.say("starting training")
        train = shlex.quote(_TRAIN.format(flags=flags))
        self._ssh(_START.format(flags=shlex.quote(flags), train=train))

    def stop(self) -> None:
        """Makes training save and stop, and waits for that."""
        self.say("stopping training")
        self._ssh(_STOP)

    def follow(self) -> list[Worker]:
        """Prints the log of worker 0 until training has ended on all workers, and returns these.

        Raises a TryAgainError once the TPU is lost, and a UserError, with training left running, if gcloud fails for
        minutes.
        """
        printed = failures = 0
        while True:
            try:
                workers = self.workers()
                printed = self._print_log(printed)
            except GcloudError as error:
                failures += 1
                with contextlib.suppress(GcloudError):
                    if (state := self.state()) in _LOST:
                        raise TryAgainError(f"it is {state or 'gone'}") from None
                if failures == _MAX_FAILED_POLLS:
                    raise UserError(f"{error}; {self.leave()}") from None
                time.sleep(POLL_SECONDS)
            else:
                failures = 0
                if all(worker.state != "running" for worker in workers):
                    return workers

    def print_last_lines(self) -> None:
        """Prints the last lines of the logs of all workers."""
        with contextlib.suppress(GcloudError):
            cli.console.print(self._ssh(_LAST_LINES), end="")

    def leave(self) -> str:
        """Leaves training running, and returns how to reach it."""
        self.is_ours = False
        options = f"--name={self.name} --zone={self.zone}{' --queued' * self.queued}"
        return f"training is left running and the TPU costs money: ./launch.sh tpu logs, stop or delete {options}"

    def _print_log(self, printed: int) -> int:
        """Prints what follows so many lines in the log of worker 0, within seconds; returns their new number."""
        # gcloud runs the command again, which prints the mark again, after a broken connection.
        output = self._ssh(_LOG.format(first=printed + 1), worker="0").rpartition(_MARK)[2]
        lines = output[: output.rfind("\n") + 1]
        cli.console.print(lines, end="")
        return printed + lines.count("\n")

    def _ssh(self, script: str, *, worker: str = "all", assumed: str = "") -> str:
        # Otherwise ssh would wait forever for a machine that has vanished.
        alive = "--ssh-flag=-oServerAliveInterval=15"
        words = ("tpu-vm", "ssh", self.name, f"--worker={worker}", alive, f"--command={script}")
        return self._gcloud(*words, assumed=assumed)

    def _gcloud(self, *words: str, assumed: str = "", may_be_missing: bool = False) -> str:
        command = ["gcloud", "compute", "tpus", *words, f"--zone={self.zone}", "--quiet"]
        if self.dry_run:
            cli.console.print(shlex.join(command))
            return assumed
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
        stdout, stderr = (output.decode(errors="replace") for output in (done.stdout, done.stderr))
        if done.returncode and not (may_be_missing and "NOT_FOUND" in stderr):
            raise GcloudError(words, stderr)
        return stdout
