"""The arithmetic of more devices, and the page."""

from pathlib import Path

import pytest
from absl.testing import flagsaver

from digits_jax.errors import UserError
from digits_jax.studies import scaling
from digits_jax.studies.results import add_results
from digits_jax.studies.scaling import Machine, step_seconds
from digits_jax.studies.sweep import load_sweep
from tests.test_report import make_diverged, make_result

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.usefixtures("parsed_flags")


def test_a_step_is_computation_then_all_reduce() -> None:
    machine = Machine(
        images_per_second=1_000, step_seconds=0.01, bytes_per_second=4 * scaling.PARAMETERS, hop_seconds=0.001,
        dimensions=1,
    )  # fmt: skip
    assert step_seconds(machine, 64, 1) == pytest.approx(0.064)
    # 32 images each; half of the gradients there and back: a second of bytes; half a ring of two, twice.
    assert step_seconds(machine, 64, 2) == pytest.approx(0.032 + 1.0 + 0.002)
    # One image each takes the step's least time; three quarters of the gradients there and back.
    assert step_seconds(machine, 4, 4) == pytest.approx(0.01 + 1.5 + 0.004)
    torus = machine._replace(dimensions=2)
    assert step_seconds(torus, 64, 16) == pytest.approx(0.01 + 15 / 8 + 0.008)


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "scaling.md").write_text("".join(f"<!-- {n} -->\n<!-- /{n} -->\n" for n in ("cpu", "tpu", "learned")))
    asked = load_sweep("configs/sweeps/scaling.py")
    variants, results = {name: asked.overrides(name) for name in asked.variants}, []
    for variant in list(asked.variants)[:-1]:  # the last was not run
        result = make_result("none", 0, 0.9, sweep="scaling")
        result["sweep"].update(variants=variants, baseline=asked.baseline)
        result["variant"] = variant
        results.append(result)
    results[-1] = make_diverged(results[-1], "the loss is nan")
    add_results(tmp_path / "scaling/results.jsonl", results)
    with flagsaver.flagsaver(docs=str(tmp_path)):
        with pytest.raises(UserError, match=r"avx2.json cannot be read as results of the benchmark"):
            scaling.main([])
        (tmp_path / "benchmarks").mkdir()
        (tmp_path / "benchmarks/avx2.json").write_text('{"environment": {}, "results": []}')
        with pytest.raises(UserError, match=r"avx2.json has no case vgg:64"):
            scaling.main([])
        (tmp_path / "benchmarks/avx2.json").write_text((ROOT / "docs/benchmarks/avx2.json").read_text())
        scaling.main([])
    page = (tmp_path / "scaling.md").read_text()
    assert "| 64 | 938 | 0.2 | twice | 90.00 % | 90.00 % |" in page
    assert "| 16,384 | 4 | 1.6 | square root | diverged |  |" in page
    assert "| 16,384 | 4 | 25.6 | linear | not run |  |" in page
    assert page.count("| 1,024 |") == 2 + 4
