"""Mutated files of a run and of a sweep; `python -m tests.fuzz` has the details."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from digits_jax import train_loop as train
from tests.conftest import ROOT, new_small_config


@pytest.mark.slow
def test_mutated_files_give_one_line_or_a_result(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    train.train_and_evaluate(new_small_config(data_dir), tmp_path / "run")
    command = [sys.executable, "-m", "tests.fuzz", f"--run={tmp_path / 'run'}", "--mutations=1000"]
    command += [f"--results={ROOT / 'docs/ablations/hidden_dropout/results.jsonl'}"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    report = json.loads(found.stdout)
    assert (report["broken"], report["written"]) == ([], [])
    assert sum(report["outcomes"].values()) == 1000
    assert report["peak_mb"] < 600
