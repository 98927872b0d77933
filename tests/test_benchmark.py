"""The benchmark: its cases, its arithmetic, its result file and page, and a short run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from absl.testing import flagsaver

from digits_jax.errors import ConfigError, UserError
from digits_jax.studies.benchmark import measure, page
from digits_jax.studies.benchmark.measure import parse_case

DOCS = Path(__file__).parents[1] / "docs"
RESULT = {"seconds": {"digits_jax": [1.0, 2.0], "PyTorch eager": [4.0, 6.0], "PyTorch compiled": [2.0, 7.0]}}


def test_a_case_is_a_config_and_a_batch_size() -> None:
    case = parse_case("bn_dropout:256")
    assert (case.config.batch_size, case.config.model.batch_norm, case.work) == (256, "after", "training")
    assert case.num_images == 4096
    assert parse_case("vgg:evaluation").num_images == 10_000
    assert parse_case("vgg:remedies").config.batch_size == 64


@pytest.mark.parametrize(
    "text",
    ["vgg", "vgg:0", "vgg:x", "vgg:-1", "nope:64", "../vgg:64", ":64", "linear:remedies", "vgg_augmented:remedies"],
)
def test_a_wrong_case(text: str) -> None:
    with pytest.raises(ConfigError, match=f"--cases={text}: "):
        parse_case(text)


def test_ratios_are_taken_within_a_round() -> None:
    assert page.ratios(RESULT, "PyTorch eager") == [3.0, 4.0]
    assert page.ratios(RESULT, "digits_jax") == [1.0, 1.0]


def test_the_fastest_pytorch_counts() -> None:
    assert page.fastest_torch(RESULT) == "PyTorch compiled"
    assert page.fastest_torch({"seconds": {"digits_jax": [1.0]}}) is None


def test_results_of_another_machine_are_kept_apart(tmp_path: Path, parsed_flags: None) -> None:
    path = tmp_path / "results.json"
    with flagsaver.flagsaver(output=str(path)):
        assert measure.read_output() == {}
        path.write_text(json.dumps({"environment": {**measure.environment(), "cores": 96}, "results": []}))
        with pytest.raises(UserError, match=r"has results with cores 96, this is .*: give another file"):
            measure.read_output()
        path.write_text("{}")
        with pytest.raises(UserError, match="cannot be read as results of the benchmark"):
            measure.read_output()
        measure.write_output(results=[{"case": "linear:64"}])
        assert measure.read_output() == {"linear:64": {"case": "linear:64"}}
    with pytest.raises(UserError, match=r"results.json has no case vgg:64"):
        page.read_benchmark(path, "linear:64", "vgg:64")


def test_an_augmented_config_is_compared_with_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure.speed, "training_pass", lambda config, dataset: config)
    passes = measure.create_passes(parse_case("vgg_augmented:64"), torch_compile=False)
    assert [config.augment.rotation for config in passes.values()] == [8.0, 0.0]
    assert list(passes) == ["digits_jax", "digits_jax, not augmented"]


def test_the_page_has_the_committed_results() -> None:
    sections = page.sections(DOCS)
    assert "| `vgg:64` | **digits_jax** | 1,892 | 33.82 | 90% |  | 0.61 |" in sections["results"]
    assert "|  | tutorial Flax | 302 | 211.94 | 14% | 6.47 (5.03 to 6.58) |  |" in sections["results"]
    assert "channels_last (its fastest) | 1,220 | 52.44 | 58% | 1.60 (1.13 to 1.63) |" in sections["results"]
    assert sections["environment"].startswith(
        "2 cores of an AMD EPYC with AVX2, which multiply matrices at 130 to 137 G"
    )
    _, committed = page.read_benchmark(DOCS / "benchmarks.json")
    (axes,) = page.plot_remedies(committed["vgg:remedies"]).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[0] == "tutorial Flax"
    assert names[6] == "digits_jax"
    assert names[-1].startswith("PyTorch")


@pytest.mark.slow
def test_a_short_run(tmp_path: Path, parsed_flags: None) -> None:
    output = tmp_path / "results.json"
    arguments = ["--cases=linear:64", "--rounds=2", "--seconds=0.01", "--notorch_compile", f"--output={output}"]
    process = subprocess.run(
        [sys.executable, "-m", "digits_jax.studies.benchmark", *arguments], capture_output=True, text=True, timeout=180
    )
    assert process.returncode == 0, process.stderr
    assert "linear:64" in process.stdout
    (result,) = json.loads(output.read_text())["results"]
    with flagsaver.flagsaver(output=str(output)):
        assert measure.read_output() == {"linear:64": result}
    assert len(result["seconds"]["digits_jax"]) == 2
    # 784 x 10 products and sums forwards, and as many for the weights' gradient.
    assert result["flops_per_image"] == pytest.approx(4 * 784 * 10, rel=0.1)
    assert 1e8 < result["peak_memory_bytes"] < 2e9
