"""Sweeps on Ray: what is refused, and a cluster of one node; `python -m tests.ray_nodes` has one of two."""

import importlib.util
import json
import re
import signal
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from digits_jax.errors import ConfigError, UserError
from digits_jax.studies.sweep.ray_executor import allocate, connect, own_files
from tests.conftest import SCALED
from tests.test_sweep import create_tasks, figures, finish, start

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: ./launch.sh setup ray")


@pytest.fixture
def no_ray_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """`connect` sets some for Ray's processes: they go when the test is over."""
    for name in ("RAY_ADDRESS", "RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("no_ray_variables")
def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"^--executor=ray needs Ray: ./launch.sh setup ray$"), connect():
        pass


@pytest.mark.usefixtures("no_ray_variables")
@pytest.mark.parametrize(
    ("address", "reason"),
    [("127.0.0.1:1", "refused"), ("head", "invalid literal")],
)
@pytest.mark.parametrize("how", ["flag", "environment"])
def test_no_cluster_at_the_address(monkeypatch: pytest.MonkeyPatch, address: str, reason: str, how: str) -> None:
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))  # is not asked
    if how == "environment":
        monkeypatch.setenv("RAY_ADDRESS", address)
    message = (
        rf"^no Ray cluster answers at '{address}' \(.*{reason}.*\): expected HOST:PORT as `ray start --head` prints"
    )
    with pytest.raises(UserError, match=message), connect(address if how == "flag" else None):
        pass


def test_configs_that_would_not_be_copied(own_loss: str, write_sweep: Callable[..., str], tmp_path: Path) -> None:
    _, tasks = create_tasks(write_sweep(variants=f'"low": SMALL, "own": SMALL | {{"config": {own_loss!r}}}'), tmp_path)
    with pytest.raises(ConfigError, match=r"scaled.py is not below .*, the directory from which --executor=ray copies"):
        own_files(tasks)


def _node(cpus: float, gpus: float = 0, *, alive: bool = True) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {"CPU": cpus, "memory": 1.0} | ({"GPU": gpus} if gpus else {})}


@pytest.mark.parametrize(
    ("nodes", "asked", "expected"),
    [
        ([_node(16), _node(9), _node(64, alive=False)], (4, None), (4, 0, 6)),
        ([_node(4), _node(4)], (8, None), (8, 0, 0)),
        ([_node(2), _node(16, 4)], (None, None), (4, 1, 4)),
        ([_node(2), _node(16, 4)], (None, 2), (9, 2, 1)),
        ([_node(2), _node(16, 4)], (4, 0), (4, 0, 4)),
    ],
)
def test_what_a_run_gets_of_a_cluster(nodes: list, asked: tuple, expected: tuple) -> None:
    assert allocate(nodes, cpus=asked[0], gpus=asked[1]) == expected


@needs_ray
@pytest.mark.slow
def test_a_sweep_on_ray_stops_goes_on_and_ends_as_a_local_one(
    write_sweep: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_ray_variables: None,
) -> None:
    (tmp_path / "my").mkdir()
    (tmp_path / "my/factor.py").write_text("FACTOR = 2.0\n")
    (tmp_path / "my/scaled.py").write_text(f"from my.factor import FACTOR\n{SCALED.replace('2.0', 'FACTOR')}")
    monkeypatch.chdir(tmp_path)
    long = '"low": SMALL | {"epochs": (40,)}, "high": SMALL | {"epochs": (40,), "learning_rates": (0.1,)}'
    wild = '"wild": SMALL | {"learning_rates": (1e38,)}, "own": SMALL | {"config": "my/scaled.py"}'
    process = start(write_sweep(variants=f"{long}, {wild}", num_seeds="1"), tmp_path / "ray", "--executor=ray")
    while process.poll() is None and not [*tmp_path.glob("ray/runs/*/*/metrics.jsonl")]:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (75, "")
    assert "interrupted and saved; resume with\n  python -m digits_jax.studies.sweep " in out
    (epochs,) = [file.read_text().count("\n") for file in tmp_path.glob("ray/runs/*/*/metrics.jsonl")]
    assert epochs < 40

    process = start(str(tmp_path / "rates.py"), tmp_path / "ray", "--executor=ray")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert err.startswith("wild, seed 0 diverged: the loss is nan at step 1 (learning rate 1e+38)")
    assert err.count("\n") == 1  # nothing of Ray's
    assert sorted(re.sub(": .*", "", line) for line in out.splitlines()[1:5]) == [
        "high, seed 0", "low, seed 0", "own, seed 0", "wild, seed 0"
    ]  # fmt: skip
    finish(write_sweep(variants=long, num_seeds="1"), tmp_path / "local")
    ours, theirs = (figures(tmp_path / name / "results/rates") for name in ("ray", "local"))
    (own,) = tmp_path.glob("ray/runs/scaled/*")
    assert json.loads((own / "run.json").read_text())["registered_by"] == {"LOSSES['scaled']": "my/scaled.py"}
    assert {key: value for key, value in ours.items() if key != own.name} == theirs
