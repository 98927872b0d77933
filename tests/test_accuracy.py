"""The page of accuracies against time, from results made up here."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from absl.testing import flagsaver

from digits_jax.errors import UserError
from digits_jax.studies import accuracy
from digits_jax.studies.accuracy import MISLABELED, Point, first_epoch
from digits_jax.studies.costs import num_parameters, training_flops, vgg
from digits_jax.studies.report.statistics import estimate
from digits_jax.studies.reproduce.post_log import EXPERIMENTS
from digits_jax.studies.results import add_results
from tests.test_report import make_result

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.usefixtures("parsed_flags")


def _result(sweep: str, variant: str, seed: int, final: float, wrong: list[int]) -> dict[str, Any]:
    """As of a run of two epochs, the first of them two points below the final one."""
    result = make_result(variant, seed, final, sweep=sweep)
    variants = [f"{name}, as stated" for name in EXPERIMENTS] if sweep == "reproduction" else ["fast", "strong"]
    asked = {**result["sweep"], "variants": {name: {} for name in variants}, "baseline": variants[0]}
    return result | {
        "sweep": asked,
        "test_errors": wrong,
        "git_revision": "0" * 40,
    }  # fewer errors than its accuracy says


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A folder like docs/: `strong` is best, and gets images 7 and 947 wrong with all of its seeds."""
    runs = [
        *(_result("reproduction", f"{name}, as stated", seed, 0.95, [1]) for name in EXPERIMENTS for seed in range(2)),
        *(_result("accuracy", "fast", seed, 0.9905 + 0.001 * seed, [2]) for seed in range(3)),
        *(_result("accuracy", "strong", seed, 0.997, [7, 947, 1000 + seed]) for seed in range(2)),
        *(_result("accuracy_earlier", "fast", seed, 0.99, [2]) for seed in range(2)),
        *(_result("accuracy_gpu", "fast", seed, 0.998, [2]) | {"devices": ["A GPU"]} for seed in range(2)),
    ]
    for run in runs:
        run["config"] = run["config"] | {
            "model": {"name": "vgg", "batch_norm": "none", "widths": [[32, 32], [64, 64]], "hidden_width": 512}
        }
    for sweep in ("reproduction", "accuracy", "accuracy_earlier", "accuracy_gpu"):
        add_results(tmp_path / sweep / "results.jsonl", [run for run in runs if run["sweep"]["name"] == sweep])
    cost = {"seconds_per_image": [0.002, 0.001, 0.003], "flops_per_image": 50_000_000}
    speed = {
        "environment": {"cores": 2, "cpu": "A Processor", "jax": "0.10.2"},
        "configs": dict.fromkeys((*EXPERIMENTS, "fast", "strong"), cost),
    }
    (tmp_path / "speed_run.json").write_text(json.dumps(speed))
    sides = {
        "fast": {"seconds": [10.0, 12.0], "accuracy": [0.99, 0.992]},
        "fast in PyTorch": {"seconds": [15.0, 24.0], "accuracy": [0.989, 0.991]},
    }
    race = {"date": "2026-01-01", "note": "as it was", "environment": {"cpu": "A Processor"}, "sides": sides}
    (tmp_path / "races.jsonl").write_text(2 * (json.dumps(race) + "\n"))
    ensembles = tmp_path / "accuracy_ensembles"
    ensembles.mkdir()
    models = [{"accuracy": 0.9961}, {"accuracy": 0.9971}]
    evaluation = {
        "models": models,
        "test_time_augmentation": "shifts",
        "accuracy": {"fraction": 0.9977, "low": 0.9966, "high": 0.9985},
    }
    evaluation["expected_calibration_error"] = 0.081
    (ensembles / "strong.json").write_text(json.dumps(evaluation))
    (tmp_path / "ablations/fast").mkdir(parents=True)
    (tmp_path / "ablations/fast/report.md").write_text("# What?\n\n**Everything** helps.\n\nMore.\n")
    (tmp_path / "accuracy.md").write_text((ROOT / "docs/accuracy.md").read_text())
    (tmp_path / "README.md").write_text((ROOT / "README.md").read_text())
    return tmp_path


def _run(docs: Path) -> str:
    with flagsaver.flagsaver(docs=str(docs), readme=str(docs / "README.md")):
        accuracy.main([""])
    return (docs / "accuracy.md").read_text()


def test_the_page(docs: Path) -> None:
    page = _run(docs)
    # 12,000 images an epoch, 2 ms each, two epochs; 50 MFLOP each.
    assert re.search(
        r"\| `fast` \| 594,922 \| 3 \| 99.15% \| 98.90 to 99.40 \| \d\d\.\d\d to \d\d\.\d\d \| 2 \| 48 \| 1.2 \|", page
    )
    assert "| fast | 2 | 99.00% | 99.00 to 99.00 | " in page
    assert "| `fast` | 48 (2 epochs) |  |" in page
    assert "| `strong` | 48 (2 epochs) | 48 (2 epochs) |" in page
    assert "| `vgg` | 48 (2" not in page
    race = (
        "| 2026-01-01 | A Processor; as it was | `fast` | 2 | 11.0 | 19.5 | 1.75 (1.50 to 2.00) | 99.10% | 99.00% |\n"
    )
    assert page.count(race) == 2
    assert "| `strong` | 2 | shifts | 99.66% | 99.77% (99.66 to 99.85) | 8.1% |" in page
    assert "All 2 runs of `strong` misclassify the same 2 images, 1 of which (in bold)" in page
    assert "from 0: 7, **947**." in page
    assert "Timed on 2 cores of A Processor" in page
    assert "17 runs, trained in" in page  # without those of earlier configs
    assert "\n**Everything** helps.\n" in page
    assert all((docs / name).read_bytes()[:4] == b"\x89PNG" for name in ("accuracy.png", "accuracy_flops.png"))
    assert "| `strong` | 100.00% | 99.94% |" in page  # three errors of 5,001 images
    assert re.search(r"\| \[Deotte 2018\]\(https://\S+\) \| .* \| 99.65% \| 191 \|", page)
    assert _run(docs) == page
    readme = (docs / "README.md").read_text()
    assert re.search(r"\| `fast` \| 594,922 \| 3 \| 48 \| 99.15 ± 0.10% \| \d\d.\d\d to \d\d.\d\d \|", readme)
    assert "| `fast` | 594,922 | 2 | 4 on one A GPU | 99.80 ± 0.00% |" in readme
    assert "Seconds of training are on 2 cores of A Processor, unless" in readme
    assert "on 1 A GPU, jax" in page
    (docs / "ablations/fast/report.md").unlink()
    assert "Its runs are missing." in _run(docs)


def test_the_first_epoch_of_the_mean() -> None:
    accuracies = [[0.98, 0.991, 0.993], [0.97, 0.989, 0.995]]
    final = estimate([epochs[-1] for epochs in accuracies])
    point = Point("", accuracies, epoch_seconds=1.0, epoch_flops=1.0, num_parameters=1, final=final, over_images=final)
    assert [first_epoch(point, threshold) for threshold in (0.9, 0.99, 0.994, 0.995)] == [1, 2, 3, None]


@pytest.mark.parametrize(
    ("config", "widths", "hidden_width"),
    [
        ("bn_dropout", ((32, 32), (64, 64)), 512),
        ("fast", ((16, 16), (32, 32)), 128),
        ("strong", ((16, 16), (64, 64)), 256),
    ],
)
def test_the_estimate_of_operations_agrees_with_the_compiler(
    config: str, widths: tuple[tuple[int, ...], ...], hidden_width: int
) -> None:
    counted = json.loads((ROOT / "docs/speed_run.json").read_text())["configs"][config]["flops_per_image"]
    assert training_flops(vgg(widths, hidden_width), images=1) == pytest.approx(counted, rel=0.01)


def test_parameters_are_counted() -> None:
    network = [*vgg(((32, 32), (64, 64)), 512)]  # tests/test_models.py has the same of Flax's modules
    assert num_parameters(network, batch_norm=False) == 594_922
    assert num_parameters(network, batch_norm=True) == 594_922 + 2 * (32 + 32 + 64 + 64 + 512)


def test_known_labels() -> None:
    assert len(MISLABELED) == 15
    assert all(0 <= index < 10_000 for index in MISLABELED)


def test_a_config_that_was_not_timed(docs: Path) -> None:
    speed = json.loads((docs / "speed_run.json").read_text())
    del speed["configs"]["strong"]
    (docs / "speed_run.json").write_text(json.dumps(speed))
    with pytest.raises(UserError, match=re.escape("has not timed 'strong'")):
        _run(docs)
    (docs / "speed_run.json").write_text("{")
    with pytest.raises(UserError, match=re.escape("speed_run.json cannot be read")):
        _run(docs)
