"""One trial each: one of two real processes is lost, or a stranger talks to their port; then both run to the end."""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.chaos.workdir import ROOT, outcome, phase

_ENDS = "the other ends in time with one line and exit code 1"
PROMISES = {
    **dict.fromkeys(("peer never comes", "coordinator never comes", "killed peer", "killed coordinator"), _ENDS),
    **dict.fromkeys(("stopped peer", "stopped coordinator"), _ENDS),  # by SIGSTOP
    "garbage on the port": "nothing happens",
}
_TIMEOUT = 300  # seconds for one run


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(workdir: Path, port: int, *processes: int, peer_timeout: int = 5) -> list[subprocess.Popen]:
    """Starts these of two processes of two devices each: softmax regression on 1,437 images for 18 epochs."""
    address = f"127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "digits_jax.main", "--config=configs/bn_dropout.py", f"--workdir={workdir}",
        "--config.model.name=linear", "--config.dataset.name=optical_digits", "--config.execution.steps_per_call=2",
        "--config.learning_rates=0.01,0.02,0.01", "--config.epochs=6,6,6",
        f"--coordinator={address}", f"--bind_address={address}", f"--peer_timeout={peer_timeout}", "--num_processes=2",
    ]  # fmt: skip
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2"}
    return [
        subprocess.Popen(
            [*command, f"--process_id={process}"], cwd=ROOT, env=environment, text=True, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        for process in processes
    ]  # fmt: skip


def finish(processes: list[subprocess.Popen]) -> tuple[list[int], list[str]]:
    """Returns the exit codes and error outputs; kills what does not end, whose exit code is -9."""
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_TIMEOUT)
    return _kill(processes)


def _kill(processes: list[subprocess.Popen]) -> tuple[list[int], list[str]]:
    for process in processes:
        process.kill()
    return [process.wait() for process in processes], [process.communicate()[1] for process in processes]


def kill_one_of_two(
    workdir: Path,
    draw: random.Random,
    *,
    kind: str,
    seconds: float = 15,
    peer_timeout: int = 5,
    expected: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Does one trial; kills come at a random moment of so many seconds, garbage all the time.

    Returns:
      `ok`: whether the remaining process ended in time with exit code 1 and one line that names the lost one, or, with
      garbage, both finished. With `expected`, the `outcome` of an undisturbed run, also whether both, started again
      where need be, end bit-identically to it. `exit_code`, `seconds` and `lines` are those of the remaining process.
    """
    port = free_port()
    lost = 0 if "coordinator" in kind else 1
    if kind == "garbage on the port":
        begin = time.monotonic()
        processes = start(workdir, port, 0, peer_timeout=peer_timeout)
        sent = _send_garbage(
            port, draw, processes, seconds=draw.uniform(1, 3 * peer_timeout)
        )  # process 0 waits for the other
        processes += start(workdir, port, 1, peer_timeout=peer_timeout)
        sent += _send_garbage(port, draw, processes, seconds=_TIMEOUT)
        codes, errors = finish(processes)
        took = time.monotonic() - begin
        where, ok = f"{sent} connections", codes == [0, 0] and errors == ["", ""]
    else:
        if "never comes" not in kind:
            victim, survivor = start(workdir, port, lost, 1 - lost, peer_timeout=peer_timeout)
            with contextlib.suppress(subprocess.TimeoutExpired):
                survivor.wait(draw.uniform(0, seconds))
            where, has_met = phase(workdir), (workdir / "run.json").exists()
            victim.send_signal(signal.SIGKILL if "killed" in kind else signal.SIGSTOP)
        else:
            [survivor], victim = start(workdir, port, 1 - lost, peer_timeout=peer_timeout), None
            where, has_met = "waiting", False
        begin = time.monotonic()
        codes, errors = finish([survivor])
        took = time.monotonic() - begin
        _kill([victim] if victim else [])
        # Before they have met, a process is still importing, and waits longer.
        in_time = took < (2 * peer_timeout if has_met else 5 * peer_timeout + 60)
        is_told = re.fullmatch(rf"error: process {lost} [^\n]*\n", errors[0]) is not None
        # Perhaps it was too late to kill: all was saved, and the victim had left already.
        has_ended = where == "finished" and codes == [0]
        ok = has_ended or (codes == [1] and is_told and in_time)
    if expected is not None:
        if not (workdir / "result.json").exists() or codes[0]:
            ok = finish(start(workdir, free_port(), 0, 1))[0] == [0, 0] and ok
        ok = ok and outcome(workdir) == expected
    lines = errors[0].count("\n")
    return {"ok": ok, "where": where, "exit_code": codes[0], "seconds": took, "lines": lines, "said": errors[0][:2000]}


def _send_garbage(port: int, draw: random.Random, processes: list[subprocess.Popen], *, seconds: float) -> int:
    """Connects while the processes run: sends nothing, a part of a hello, HTTP, TLS or noise, and lingers."""
    openings = [b"", b"digits", b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00"]
    held: list[socket.socket] = []
    count = 0
    deadline = time.monotonic() + seconds
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            held.append(socket.create_connection(("127.0.0.1", port), timeout=1))
            count += 1
            held[-1].sendall(draw.choice([*openings, draw.randbytes(draw.randrange(1, 100_000))]))
        while len(held) > draw.randrange(4):
            held.pop(0).close()
        time.sleep(draw.uniform(0, 0.5))
    for connection in held:
        connection.close()
    return count
