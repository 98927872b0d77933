"""One trial each: a run is killed, or its files are damaged; the same command resumes; the end is compared."""

import functools
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.chaos import processes
from tests.chaos.workdir import ROOT, outcome, phase

_TIMEOUT = 300  # seconds for one process


def command(workdir: Path, *more: str) -> list[str]:
    """`bn_dropout` with augmentation and dropout on 1,437 images for three epochs."""
    return [
        sys.executable, "-m", "digits_jax.main", "--config=configs/bn_dropout.py", f"--workdir={workdir}",
        "--config.dataset.name=optical_digits", "--config.dataset.validation_examples=200",
        "--config.learning_rates=0.01,0.02,0.01", "--config.epochs=1,1,1",
        "--config.augment.rotation=8.0", "--config.augment.shear=0.3", "--config.augment.zoom=0.08",
        "--config.execution.steps_per_call=2", *more,
    ]  # fmt: skip


def start(workdir: Path, *more: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        command(workdir, *more), cwd=ROOT, env={**os.environ, **environment},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def end(process: subprocess.Popen) -> tuple[int, str]:
    """Waits for a process; returns its exit code and what it wrote to stderr."""
    try:
        _, err = process.communicate(timeout=_TIMEOUT)
    finally:
        process.kill()
    return process.returncode, err


def finish(workdir: Path, *more: str, **environment: str) -> str:
    """Runs the command to its end, and returns what it warned of."""
    code, err = end(start(workdir, *more, **environment))
    if code:
        raise RuntimeError(f"exit code {code}: {err.strip()}")
    return err


def kill(workdir: Path, draw: random.Random, signum: signal.Signals, *, seconds: float) -> str:
    """Sends a signal to the run at a random moment of so many seconds; returns where it was, or its exit code."""
    process = start(workdir)
    try:
        process.wait(draw.uniform(0, seconds))
    except subprocess.TimeoutExpired:
        process.send_signal(signum)
    code, _ = end(process)
    where = phase(workdir)
    return where if signum == signal.SIGKILL else f"{where}, exit code {code}"


def stop_after_epochs(workdir: Path, count: int, *more: str) -> None:
    """Trains until so many epochs are saved, and stops the run there with SIGTERM."""
    process = start(workdir, *more)
    metrics = workdir / "metrics.jsonl"
    deadline = time.monotonic() + _TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and metrics.read_text().count("\n") >= count:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    end(process)


def flip_bit(step: Path, other: Path, draw: random.Random) -> str:
    file = _draw_file(step, draw, least=1)
    content = bytearray(file.read_bytes())
    bit = draw.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)
    return f"bit {bit} of {file.relative_to(step)}"


def truncate(step: Path, other: Path, draw: random.Random) -> str:
    file = _draw_file(step, draw, least=1)
    size = draw.randrange(file.stat().st_size)
    os.truncate(file, size)
    return f"{file.relative_to(step)} cut to {size} bytes"


def delete(step: Path, other: Path, draw: random.Random) -> str:
    file = _draw_file(step, draw, least=0)
    file.unlink()
    return f"{file.relative_to(step)} deleted"


def swap(step: Path, other: Path, draw: random.Random) -> str:
    """Takes a file from another checkpoint."""
    pairs = [
        (file, twin)
        for file in sorted(step.rglob("*"))
        if file.is_file() and (twin := other / file.relative_to(step)).is_file()
    ]
    file, twin = draw.choice([pair for pair in pairs if pair[0].read_bytes() != pair[1].read_bytes()])
    shutil.copy(twin, file)
    return f"{file.relative_to(step)} from step {other.name}"


def _draw_file(step: Path, draw: random.Random, *, least: int) -> Path:
    files = [path for path in sorted(step.rglob("*")) if path.is_file() and path.stat().st_size >= least]
    return draw.choice(files)


DAMAGES: dict[str, Callable[[Path, Path, random.Random], str]] = {
    "bit flip": flip_bit, "truncation": truncate, "deletion": delete, "swapped file": swap
}  # fmt: skip


class Runs:
    """The runs that trials compare with and copy, each trained when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        finish(self.undisturbed)
        begin = time.monotonic()
        finish(root / "again")  # its programs are compiled already, as those of all runs to come
        self.seconds = time.monotonic() - begin
        self.expected = outcome(self.undisturbed)

    @property
    def undisturbed(self) -> Path:
        return self.root / "undisturbed"

    @functools.cached_property
    def original(self) -> Path:
        """A run that was stopped in its last epoch."""
        stop_after_epochs(self.root / "original", 2)
        return self.root / "original"

    @functools.cached_property
    def of_two(self) -> dict[str, Any]:
        """What a run of two processes ends with."""
        workdir = self.root / "two"
        codes, errors = processes.finish(processes.start(workdir, processes.free_port(), 0, 1))
        if codes != [0, 0]:
            raise RuntimeError(f"exit codes {codes}: {errors}")
        return outcome(workdir)

    @functools.cached_property
    def others(self) -> dict[str, Path]:
        """Finished runs with another seed, another config, and other data."""
        changes = {
            "another seed": "--config.seed=1",
            "another config": "--config.model.hidden_dropout=0.25",
            "other data": "--config.dataset.train_examples=1200",
        }
        for name, change in changes.items():
            finish(self.root / name, change)
        return {name: self.root / name for name in changes}


def left_alone(runs: Runs, workdir: Path, draw: random.Random) -> tuple[bool, str]:
    finish(workdir)
    return outcome(workdir) == runs.expected, "in a process of its own"


def killed(signum: signal.Signals, runs: Runs, workdir: Path, draw: random.Random) -> tuple[bool, str]:
    """Kills a run up to three times, and lets it end."""
    moments = [kill(workdir, draw, signum, seconds=runs.seconds) for _ in range(draw.choice((1, 1, 2, 3)))]
    finish(workdir)
    return outcome(workdir) == runs.expected, "; ".join(moments)


def damaged(damage: str, runs: Runs, workdir: Path, draw: random.Random) -> tuple[bool, str]:
    """Damages the latest checkpoint of a copy of a run and trains the copy to its end."""
    shutil.copytree(runs.original, workdir)
    *_, before, last = _checkpoints(workdir)
    what = DAMAGES[damage](last, before, draw)
    warnings = finish(workdir)
    incomplete = what == "SHA256SUMS deleted"
    found = f"the checkpoint of step {last.name} is {'incomplete' if incomplete else 'corrupted'}" in warnings
    kind = "arrays" if "arrays" in what else "manifest" if "SHA256SUMS" in what else "other"
    return found and outcome(workdir) == runs.expected, kind


def foreign(runs: Runs, workdir: Path, draw: random.Random) -> tuple[bool, str]:
    """Puts a whole checkpoint of another run in the place of one of a copy, or beyond its last."""
    name = draw.choice(sorted(runs.others))
    place = draw.choice(("in place of the latest", "after the latest"))
    shutil.copytree(runs.original, workdir)
    theirs = _checkpoints(runs.others[name])[-1]
    ours = _checkpoints(workdir)[-1]
    target = ours if place == "in place of the latest" else workdir / "checkpoints" / theirs.name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(theirs, target)
    manifest = (target / "SHA256SUMS").read_text()
    (target / "SHA256SUMS").write_text(manifest.replace(f"# {theirs.name}\n", f"# {target.name}\n", 1))
    warnings = finish(workdir)
    found = f"the checkpoint of step {target.name} is of another run" in warnings
    return found and outcome(workdir) == runs.expected, f"{name}, {place}"


def edited(runs: Runs, workdir: Path, draw: random.Random) -> tuple[bool, str]:
    """Edits one number or text of a finished run's `result.json` or `metrics.jsonl`; the run refuses it."""
    shutil.copytree(runs.undisturbed, workdir)
    name = draw.choice(("result.json", "result.json", "metrics.jsonl"))
    lines = (workdir / name).read_text().splitlines()
    spots = [(i, m) for i, line in enumerate(lines) for m in re.finditer(r"\d+", line) if '"train/seconds"' not in line]
    spots = spots or [(i, m) for i, line in enumerate(lines) for m in re.finditer(r"\d+", line)]
    number, spot = draw.choice(spots)
    digits = str((int(spot.group()) + draw.randint(1, 9)) % 10 ** len(spot.group())).zfill(len(spot.group()))
    lines[number] = lines[number][: spot.start()] + digits + lines[number][spot.end() :]
    (workdir / name).write_text("\n".join(lines) + "\n")
    code, err = end(start(workdir))
    refused = code == 1 and err.count("\n") == 1 and name in err
    (workdir / "result.json").unlink()
    (workdir / "metrics.jsonl").unlink()
    finish(workdir)
    return refused and outcome(workdir) == runs.expected, name


NUMERICS = {
    "JAX_ENABLE_X64": "1",
    "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16",
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_THREEFRY_PARTITIONABLE": "0",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
}


def other_numerics(runs: Runs, workdir: Path, draw: random.Random) -> tuple[bool, str]:
    """Resumes a run under another numeric setting: the run warns in one line, and records it."""
    name = draw.choice(sorted(NUMERICS))
    shutil.copytree(runs.original, workdir)
    warnings = finish(workdir, **{name: f"{os.environ.get(name, '')} {NUMERICS[name]}".strip()})
    recorded = json.loads((workdir / "run.json").read_text())["resumed_on"][-1]["numerics"]
    before = json.loads((runs.original / "run.json").read_text())["numerics"]
    (changed,) = [setting for setting in recorded if recorded[setting] != before[setting]]
    return f"numerics.{changed} from" in warnings and warnings.count("\n") == 1, changed


NAMESPACE = ("unshare", "--map-root-user", "--mount")


def full_disk(runs: Runs, workdir: Path, draw: random.Random) -> tuple[bool, str]:
    """Trains on a file system of a random size, smaller than a run, until it is full; then it grows.

    It is mounted in a mount namespace of its own, which takes no privileges on most Linux systems.
    """
    size = draw.randint(40, 24_000)  # KB
    workdir.mkdir()
    script = f"""
        mount -t tmpfs -o size={size}k tmpfs "$0/disk" || exit 99
        {shlex.join(command(workdir / "disk" / "run"))} >/dev/null 2>"$0/first"
        echo $? >"$0/code"
        mount -o remount,size=200m "$0/disk"
        {shlex.join(command(workdir / "disk" / "run"))} >/dev/null 2>"$0/second" || exit 98
        cp -r "$0/disk/run" "$0/run"
    """
    (workdir / "disk").mkdir()
    arguments = [*NAMESPACE, "bash", "-c", script, str(workdir)]
    process = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {process.stderr}{(workdir / 'second').read_text()}")
    code, err = int((workdir / "code").read_text()), (workdir / "first").read_text()
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    clear = code == 0 or (code == 1 and len(lines) == 1 and "Traceback" not in err)
    where = re.sub(r"[\d.]+|/\S+/", "", lines[0])[7:60].strip() if lines else "large enough"
    what = next((name for name in ("checkpoint", "metrics", "result", "workdir") if name in where), where)
    return clear and outcome(workdir / "run") == runs.expected, what


def two(kind: str, runs: Runs, workdir: Path, draw: random.Random) -> tuple[bool, str]:
    trial = processes.kill_one_of_two(workdir, draw, kind=kind, expected=runs.of_two)
    return trial["ok"], trial["where"] if trial["ok"] else str(trial)


def _checkpoints(workdir: Path) -> list[Path]:
    return sorted((p for p in workdir.glob("checkpoints/*") if p.name.isdigit()), key=lambda path: int(path.name))


class Kind(NamedTuple):
    """A kind of trial."""

    promise: str
    count: int  # of trials in the full form
    run: Callable[[Runs, Path, random.Random], tuple[bool, str]]  # whether the promise was kept, and where it was tried


_SAME = "ends bit-identical"
KINDS: dict[str, Kind] = {
    "left alone": Kind(_SAME, 3, left_alone),
    "SIGKILL": Kind(_SAME, 20, functools.partial(killed, signal.SIGKILL)),
    **{s.name: Kind(_SAME, 8, functools.partial(killed, s)) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)},
    **{name: Kind(f"is found, {_SAME}", 12, functools.partial(damaged, name)) for name in DAMAGES},
    "foreign checkpoint": Kind(f"is refused by name, {_SAME}", 12, foreign),
    "edited result": Kind("is refused by name", 12, edited),
    "numeric settings": Kind("one warning, recorded", 8, other_numerics),
    "full disk": Kind(f"one line, then {_SAME}", 12, full_disk),
    **{
        f"two processes: {kind}": Kind(
            f"{promise}, {_SAME}", 2 if "never comes" in kind else 10, functools.partial(two, kind)
        )
        for kind, promise in processes.PROMISES.items()
    },
}
