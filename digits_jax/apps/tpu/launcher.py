"""Attempts to train on a TPU until training is done."""

import contextlib
import hashlib
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from digits_jax.apps.tpu.machine import POLL_SECONDS, GcloudError, Tpu, TryAgainError, Worker
from digits_jax.errors import ConfigError, UserError

_TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
_MAX_WAIT = 600  # seconds before the next attempt


class GaveUpError(UserError):
    """All attempts are used up."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def pack(repository: Path, folder: Path, *, dirty: bool) -> tuple[str, list[str]]:
    """Writes the current commit, and with `dirty` the uncommitted changes, to files; returns a name and the files.

    Raises a ConfigError that names uncommitted changes without `dirty`.
    """

    def git(*words: str, **variables: str) -> str:
        command, environment = ["git", "-C", str(repository), *words], {**os.environ, **variables}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
        if done.returncode:
            raise UserError(f"git {words[0]} failed ({done.stderr.strip()}): expected a clone of the repository")
        return done.stdout

    changes = [line[3:] for line in git("status", "--porcelain", "--untracked-files=all").splitlines()]
    if changes and not dirty:
        names = ", ".join(changes[:5]) + (f" and {len(changes) - 5} more" if len(changes) > 5 else "")
        raise ConfigError(f"not committed: {names}; commit them, or copy them with --dirty")
    bundle, patch, index = (folder / f"digits_jax.{suffix}" for suffix in ("bundle", "patch", "index"))
    git("bundle", "create", "--quiet", str(bundle), "HEAD")
    # An index of our own takes in untracked files.
    git("read-tree", "HEAD", GIT_INDEX_FILE=str(index))
    git("add", "--all", GIT_INDEX_FILE=str(index))
    git("diff-index", "--cached", "--binary", "--patch", f"--output={patch}", "HEAD", GIT_INDEX_FILE=str(index))
    name = git("rev-parse", "--short=12", "HEAD").strip()
    if patch.stat().st_size:
        name += f"+{hashlib.sha256(patch.read_bytes()).hexdigest()[:12]}"
    return name, [str(bundle), str(patch)]


def launch(tpu: Tpu, code: str, files: list[str], flags: list[str], *, attempts: int = 30, keep: bool = False) -> int:
    """Trains on a TPU and returns the exit code of training.

    At the end it deletes the TPU, also after an error, unless that is to be kept or training is left running.
    """
    try:
        return train(tpu, code, files, shlex.join(flags), attempts=attempts)
    except (KeyboardInterrupt, SystemExit) as stop:  # the latter of other signals, such as a closed terminal's
        if tpu.is_training:
            if isinstance(stop, SystemExit) or _wants_to_leave():
                tpu.say(tpu.leave())
            else:
                tpu.stop()
        raise
    finally:
        if tpu.is_ours and not keep:
            tpu.delete()


def train(tpu: Tpu, code: str, files: list[str], flags: str, *, attempts: int) -> int:
    """Trains until that is done, fails for good or is stopped; returns the exit code of training.

    Raises a GaveUpError if that takes more attempts.
    """
    failures = 0  # in a row, before training has started
    for attempt in range(1, attempts + 1):
        exit_code = _TRY_AGAIN
        try:
            workers = train_once(tpu, code, files, flags)
            exit_code, is_final = judge(workers)
            reason = f"training ended with exit code {exit_code}"
            if exit_code and len(workers) > 1:  # perhaps another than worker 0 knows why
                tpu.print_last_lines()
            if is_final:
                tpu.say(reason)
                return exit_code
        except TryAgainError as error:
            reason = str(error)
        failures = 0 if tpu.is_training else failures + 1
        wait = min(POLL_SECONDS * 2 ** (failures - 1), _MAX_WAIT) if failures else 0
        tpu.is_training = False
        if attempt < attempts:
            tpu.say(f"{reason}: attempt {attempt + 1} of {attempts}{f' in {wait} s' if wait else ''}")
            time.sleep(wait)
    raise GaveUpError(f"{reason}; all {attempts} attempts are used up, the same command resumes", exit_code)


def train_once(tpu: Tpu, code: str, files: list[str], flags: str) -> list[Worker]:
    """Starts training, unless it is running already, and follows it; returns the workers at its end.

    Raises a TryAgainError if the TPU is refused or lost, or a command on it fails.
    """
    tpu.get()
    try:
        workers = tpu.workers()
        running = [worker for worker in workers if worker.state == "running"]
        if running and running[0].flags != flags:
            raise ConfigError(f"{tpu.name} is training with {running[0].flags}: expected the same flags, or stop it")
        tpu.is_training, tpu.is_ours = bool(running), True
        if running:
            tpu.say(f"following the training that is running, with code {running[0].code}")
        else:
            if any(worker.code != code for worker in workers):
                tpu.install(code, files)
            tpu.start(flags)
        tpu.is_training = True
        return tpu.follow()
    except GcloudError as error:
        raise TryAgainError(str(error)) from None


def judge(workers: list[Worker]) -> tuple[int, bool]:
    """Returns the exit code of training, and whether it is final, from what training left on its workers."""
    states = {worker.state for worker in workers}
    if "stopped" in states:
        return _TRY_AGAIN, True
    crashes = states - {"0", "1", "2", "75", "130"}
    if crashes or not workers:
        return max((int(state) for state in crashes if state.isdecimal()), default=_TRY_AGAIN), False
    if states & {"1", "2"}:
        return int(max(states & {"1", "2"})), True
    return max(map(int, states)), states == {"0"}


def _wants_to_leave() -> bool:
    """Asks once whether to leave training running; without a terminal or an answer it is left."""
    if not sys.stdin.isatty():
        return True
    answer = ""
    with contextlib.suppress(KeyboardInterrupt, EOFError):
        answer = input("\nLeave training running? [Y/n] ")
    return not answer.lower().startswith("n")
