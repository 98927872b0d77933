"""docs/digit_recognition: its two files agree, it shows no images of digits, and it runs on other data."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "docs/digit_recognition.py"
NOTEBOOK = SCRIPT.with_suffix(".ipynb")


def read_cells(path: Path) -> list[Any]:
    jupytext = pytest.importorskip("jupytext", reason="needs jupytext: ./launch.sh setup notebook")
    return jupytext.read(path).cells


def test_the_notebook_has_the_cells_of_the_script() -> None:
    script, notebook = (
        [(cell.cell_type, cell.source, cell.metadata.get("tags")) for cell in read_cells(path)]
        for path in (SCRIPT, NOTEBOOK)
    )
    assert notebook == script


def test_the_notebook_was_executed_in_order() -> None:
    code = [cell for cell in read_cells(NOTEBOOK) if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = {(output.output_type, output.get("name")) for cell in code for output in cell.outputs}
    assert kinds <= {("stream", "stdout"), ("execute_result", None), ("display_data", None)}  # no errors or warnings


def test_only_plots_have_pictures_and_none_is_of_digits() -> None:
    for cell in read_cells(NOTEBOOK):
        has_picture = any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))
        assert has_picture == ("plot" in cell.metadata.get("tags", [])), cell.source
        assert not re.search("imshow|matshow|imsave|fromarray", cell.source)


def test_the_notebook_is_small_and_names_no_machine() -> None:
    text = NOTEBOOK.read_text()
    assert len(text) < 1_000_000
    text = re.sub(r'"image/png": "[^"]*"', "", text)
    assert not re.search(r"(?<![\w.:/*<`])(/|[A-Z]:\\+)(home|root|tmp|Users|work|usr|opt|var|mnt)\b", text)
    assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text)


@pytest.mark.slow
def test_the_script_runs_where_mnist_is_missing(data_dir: Path, tmp_path: Path) -> None:
    variables = {"DIGITS_JAX_DATASET": "optical_digits", "MPLBACKEND": "Agg", "TFDS_DATA_DIR": str(data_dir)}
    environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error::UserWarning:matplotlib", str(SCRIPT)]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    means = [float(value) for value in re.findall(r"mean loss ([\d.]+) nats", ended.stdout)]
    assert means == sorted(means, reverse=True)
    assert "labels" not in ended.stdout  # those of the images that nobody gets right are MNIST's
    assert not list(tmp_path.iterdir())
