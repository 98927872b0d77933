"""What a process does about the others, as far as one process shows it; `test_distributed.py` starts several."""

import contextlib
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import jax
import pytest

from digits_jax import parallel
from digits_jax.errors import ConfigError, UserError
from digits_jax.parallel import distributed, peers


@pytest.mark.parametrize("bound", [True, False])
def test_a_port_that_is_in_use_is_an_error_of_one_line(bound: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        expected = rf"^process 0 cannot listen on {address} \(Address already in use\): choose another port$"
        with pytest.raises(UserError, match=expected):
            parallel.initialize(address, 2, 0, bind_address=address if bound else None)


@pytest.mark.parametrize(
    ("coordinator", "bind_address", "expected"),
    [
        ("localhost", None, "--coordinator is 'localhost': expected HOST:PORT"),
        ("localhost:70000", None, "--coordinator is 'localhost:70000': expected HOST:PORT"),
        ("localhost:1234", "localhost:", "--bind_address is 'localhost:': expected HOST:PORT"),
    ],
)
def test_an_address_without_a_port(coordinator: str, bind_address: str | None, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        parallel.initialize(coordinator, 2, 0, bind_address=bind_address)


def test_the_number_of_a_process_is_less_than_their_number() -> None:
    with pytest.raises(ConfigError, match=r"^--process_id is 2: expected less than --num_processes, which is 2$"):
        parallel.initialize("localhost:1234", 2, 2)


def _join(*arguments: Any) -> None:
    with contextlib.suppress(UserError):
        peers.join(*arguments)


def test_processes_meet_and_strangers_are_not_let_in() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with socket.create_connection(address), socket.create_connection(address) as noisy:
            noisy.sendall(b"GET / HTTP/1.1\r\n\r\n")
            joining = threading.Thread(target=_join, args=(address, 1, 2, 3), daemon=True)
            joining.start()
            links = peers.gather(listener, 2, 3)
    assert list(links) == [1]
    links[1].close()


def test_who_does_not_come_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        joining = threading.Thread(target=_join, args=(address, 1, 4, 1))
        joining.start()
        with pytest.raises(UserError, match=r"^process 2, 3 did not come within 1 seconds$"):
            peers.gather(listener, 4, 1)
        joining.join()
    expected = rf"^process 0 did not answer at 127.0.0.1:{address[1]} within 1 seconds \(Connection refused\)$"
    with pytest.raises(UserError, match=expected):
        peers.join(address, 1, 2, 1)


@pytest.mark.parametrize(
    ("description", "field", "ours", "firsts"),
    [
        ({"config": {"model": {"widths": ((8,),)}, "seed": 0}}, "config.model.widths", "[[8]]", "[[4]]"),
        ({"config": {"model": {"widths": ((4,),)}, "seed": 1}}, "config.seed", "1", "0"),
        ({"config": {"model": {"widths": ((4,),)}, "seed": 0}, "jax": {"version": "0"}}, "jax.version", "'0'", "None"),
    ],
)  # fmt: skip
def test_the_first_field_that_differs_is_named(
    monkeypatch: pytest.MonkeyPatch, description: dict, field: str, ours: str, firsts: str
) -> None:
    parallel.check_same(description)
    first = {"config.model.widths": [[4]], "config.seed": 0}
    monkeypatch.setattr(distributed, "from_first", lambda arrays, metadata: (arrays, first))
    parallel.check_same({"config": {"seed": 0, "model": {"widths": ((4,),)}}})
    with pytest.raises(UserError) as raised:
        parallel.check_same(description)
    assert str(raised.value) == f"it has {field} = {ours}, and process 0 has {firsts}: start all with the same"


class Ended(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize(
    "error",
    [
        ValueError("UNKNOWN: Gloo AllGather failed: [pair.cc:547] Connection closed by peer"),
        jax.errors.JaxRuntimeError("[pair.cc:547] Connection closed by peer"),
    ],
)
def test_a_lost_process_ends_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path, error: Exception
) -> None:
    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(distributed, "_peers", peers.Peers({}, 7, tmp_path / "jax"), raising=False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(Ended, match="1"), parallel.ending_with_others(7):
        raise error
    message = capsys.readouterr().err
    assert message.startswith("error: another process is gone (Connection closed by peer); start all again")
    assert message.count("\n") == 1


@pytest.mark.parametrize(("error", "code"), [(ValueError("a mistake"), 1), (KeyboardInterrupt(), 130)])
def test_a_process_that_fails_alone_does_not_wait(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, error: BaseException, code: int
) -> None:
    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(Ended, match=str(code)), parallel.ending_with_others(7):
        raise error
    assert str(error) in capsys.readouterr().err


@pytest.mark.parametrize(("processes", "error"), [(2, UserError("of all")), (1, ValueError("UNKNOWN: Gloo"))])
def test_other_errors_are_raised(monkeypatch: pytest.MonkeyPatch, processes: int, error: Exception) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    with pytest.raises(type(error), match=str(error)), parallel.ending_with_others(7):
        raise error
