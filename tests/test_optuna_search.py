"""`docs/optuna_search.py`: a search in several calls is the search of one call."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFIG = ("--config=linear:smoke", "--config.dataset.name=optical_digits", "--config.dataset.train_examples=100")
HELD_OUT = "--config.dataset.validation_examples=50"


def search(data_dir: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "docs/optuna_search.py"), *CONFIG, *arguments]
    environment = {**os.environ, "TFDS_DATA_DIR": str(data_dir), "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_search_resumes_where_it_stopped(data_dir: Path, tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna", reason="needs Optuna: ./launch.sh setup search")

    def trials(name: str, *numbers: int) -> list[tuple[dict[str, float], float]]:
        file = tmp_path / f"new/{name}.db"
        for number in numbers:
            ended = search(data_dir, HELD_OUT, f"--trials={number}", f"--study={file}")
            assert ended.returncode == 0, ended.stderr
        [study] = optuna.get_all_study_names(f"sqlite:///{file}")
        return [(t.params, t.value) for t in optuna.load_study(study_name=study, storage=f"sqlite:///{file}").trials]

    once, twice = trials("once", 2), trials("twice", 1, 1)
    assert len(once) == 2
    assert once[0] != once[1]
    assert once == twice


@pytest.mark.slow
def test_a_search_needs_held_out_images(data_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="needs Optuna: ./launch.sh setup search")
    ended = search(data_dir, f"--study={tmp_path / 'study.db'}")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: config.dataset.validation_examples is 0: expected")
    assert len(ended.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
