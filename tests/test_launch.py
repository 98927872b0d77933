"""`launch.sh` with fakes of `uv` and Python that only record their arguments."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FAKE = """\
#!/usr/bin/env bash
printf '%s\\0' "$(basename "$0")" "$@" >> "$LOG"; echo >> "$LOG"
if [[ "$*" == *digits_jax.data* ]]; then echo "$PREPARING"; [[ -z "$PREPARING" ]]; fi
"""


@pytest.fixture
def clone(tmp_path: Path):
    """Runs a copy of launch.sh with a fake uv and Python; returns how it ended, and the commands that those got."""
    for name in ("launch.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for path in (tmp_path / "bin" / "uv", tmp_path / ".venv" / "bin" / "python"):
        path.parent.mkdir(parents=True)
        path.write_text(FAKE)
        path.chmod(0o755)

    def run(*arguments: str, preparing: str = "") -> tuple[subprocess.CompletedProcess, list[list[str]]]:
        log = tmp_path / "log"
        log.write_text("")
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "LOG": str(log), "PREPARING": preparing}
        found = subprocess.run(
            [tmp_path / "launch.sh", *arguments], env=env, capture_output=True, text=True, timeout=60
        )
        return found, [line.split("\0")[:-1] for line in log.read_text().splitlines()]

    return run


def test_setup_installs_once_what_the_readme_needs(clone) -> None:
    install = ["uv", "pip", "install", "--quiet", "--python", ".venv/bin/python", "--constraint", "constraints.txt"]
    assert clone("setup")[1] == [[*install, "--editable", ".[apps,studies,tensorboard]"]]
    assert clone("setup")[1] == []
    assert clone("setup", "gcs", "cuda")[1] == [[*install, "--editable", ".[apps,cuda,gcs,studies,tensorboard]"]]


@pytest.mark.parametrize("config", [("--config=configs/vgg.py",), ("--config", "configs/vgg.py")])
@pytest.mark.parametrize("command", [(), ("train",)])
def test_training_with_a_config(clone, command: tuple[str, ...], config: tuple[str, ...]) -> None:
    *_, train = clone(*command, "--config.epochs", "(1, 2)", *config, "--config.seed=1")[1]
    flags = ["--config.epochs", "(1, 2)", "--config=configs/vgg.py", "--config.seed=1"]
    assert train == ["python", "-m", "digits_jax.main", *flags]


def test_training_without_a_config(clone) -> None:
    default = ["python", "-m", "digits_jax.main", "--config=bn_dropout"]
    prepare = ["python", "-m", "digits_jax.data", "--name=mnist"]
    assert clone()[1][1:] == [prepare, default]
    assert clone("--config.seed=1")[1] == [prepare, [*default, "--config.seed=1"]]
    assert clone("--config.dataset.name=kmnist")[1] == [[*default, "--config.dataset.name=kmnist"]]
    unreachable, done = clone(preparing="error: http://mnist cannot be reached")
    assert done == [prepare, [*default, "--config.dataset.name=optical_digits"]]
    assert "training on optical_digits instead" in unreachable.stdout
    damaged, done = clone(preparing="error: mnist is corrupted")
    assert (damaged.returncode, damaged.stderr, done) == (1, "error: mnist is corrupted\n", [prepare])


def test_a_tpu_is_the_matter_of_a_module(clone) -> None:
    launch = ["python", "-m", "digits_jax.apps.tpu", "--name=digits", "--", "--config.dataset.source_dir=/my digits"]
    assert clone("tpu", *launch[3:])[1][1:] == [launch]


def test_an_unknown_command_is_answered_in_one_line(clone) -> None:
    found, done = clone("tpus")
    expected = "error: unknown command 'tpus': expected train, test, tpu or setup (./launch.sh --help)\n"
    assert (found.returncode, found.stderr, done) == (2, expected, [])
