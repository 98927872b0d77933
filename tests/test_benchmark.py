"""The benchmark: what it is asked for, what it makes of times, and a run of seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from digits_jax.errors import ConfigError, UserError
from digits_jax.studies.benchmark import __main__ as benchmark

RESULT = {"seconds": {"digits_jax": [1.0, 2.0], "PyTorch eager": [4.0, 6.0], "PyTorch compiled": [2.0, 7.0]}}


def test_a_case_is_a_config_and_a_batch_size() -> None:
    case = benchmark.parse_case("bn_dropout:256")
    assert (case.config.batch_size, case.config.model.batch_norm, case.work) == (256, "after", "training")
    assert case.num_images == 4096
    assert benchmark.parse_case("vgg:evaluation").num_images == 10_000
    assert benchmark.parse_case("vgg:remedies").config.batch_size == 64


@pytest.mark.parametrize("text", ["vgg", "vgg:0", "vgg:x", "vgg:-1", "nope:64", "../vgg:64", ":64", "linear:remedies"])
def test_a_wrong_case(text: str) -> None:
    with pytest.raises(ConfigError, match=f"--cases={text}: "):
        benchmark.parse_case(text)


def test_ratios_are_taken_within_a_round() -> None:
    assert benchmark.ratios(RESULT, "PyTorch eager") == [3.0, 4.0]
    assert benchmark.ratios(RESULT, "digits_jax") == [1.0, 1.0]


def test_the_fastest_pytorch_counts() -> None:
    assert benchmark.fastest_torch(RESULT) == "PyTorch compiled"
    assert benchmark.fastest_torch({"seconds": {"digits_jax": [1.0]}}) is None


def test_results_of_another_machine_are_kept_apart(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    assert benchmark.read_output(str(path)) == []
    path.write_text(json.dumps({"environment": {**benchmark.environment(), "cores": 96}, "results": []}))
    with pytest.raises(UserError, match=r"has results with cores 96, this is .*: give another file"):
        benchmark.read_output(str(path))
    path.write_text("{}")
    with pytest.raises(UserError, match="cannot be read as results of the benchmark"):
        benchmark.read_output(str(path))


@pytest.mark.slow
def test_a_short_run(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    arguments = ["--cases=linear:64", "--rounds=2", "--seconds=0.01", "--notorch_compile", f"--output={output}"]
    process = subprocess.run(
        [sys.executable, "-m", "digits_jax.studies.benchmark", *arguments], capture_output=True, text=True, timeout=180
    )
    assert process.returncode == 0, process.stderr
    assert "linear:64" in process.stdout
    (result,) = json.loads(output.read_text())["results"]
    assert benchmark.read_output(str(output)) == [result]
    assert len(result["seconds"]["digits_jax"]) == 2
    # 784 x 10 products and sums forwards, and as many for the weights' gradient.
    assert result["flops_per_image"] == pytest.approx(4 * 784 * 10, rel=0.1)
    assert 1e8 < result["peak_memory_bytes"] < 2e9
