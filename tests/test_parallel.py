"""What a process does about the others, as far as one process shows it; `test_distributed.py` starts several."""

import os
import socket
import time

import jax
import pytest

from digits_jax import parallel
from digits_jax.errors import ConfigError, UserError
from digits_jax.parallel import distributed


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
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, error: Exception
) -> None:
    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(Ended, match="1"), parallel.ending_with_others(7):
        raise error
    message = capsys.readouterr().err
    assert message.startswith("error: another process is gone (Connection closed by peer): ")
    assert message.count("\n") == 1


@pytest.mark.parametrize(("processes", "error"), [(2, ValueError("a mistake")), (1, ValueError("UNKNOWN: Gloo"))])
def test_other_errors_are_raised(monkeypatch: pytest.MonkeyPatch, processes: int, error: Exception) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    with pytest.raises(ValueError, match=str(error)), parallel.ending_with_others(7):
        raise error
