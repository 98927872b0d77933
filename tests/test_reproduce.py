"""The post's log among runs made up here: what lies inside, what the page says of the rest."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from absl.testing import flagsaver

from configs.sweeps import reproduction, reproduction_causes
from digits_jax.errors import UserError
from digits_jax.studies.reproduce import __main__ as reproduce
from digits_jax.studies.reproduce.post_log import EXPERIMENTS, inside, inside_without_each, numbers_of, read_post_log
from digits_jax.studies.results import add_results, read_file
from tests.test_report import make_diverged, make_result

ROOT = Path(__file__).parents[1]
LOG = ROOT / "docs/reproduction/post_log.csv"

pytestmark = pytest.mark.usefixtures("parsed_flags")


def make_run(figures: np.ndarray, variant: str, seed: int, variants: list[str], baseline: str) -> dict[str, Any]:
    """A result file with the given figures `[epochs, 4]`."""
    result = make_result("none", seed, 0.0)
    metrics = ("train/loss", "train/accuracy", "test_stream/loss", "test_stream/accuracy", "test/loss", "test/accuracy")
    rows = [
        {"epoch": epoch, "train/seconds": 1.0, **dict(zip(metrics, (*row, 2 * row[2], row[3]), strict=True))}
        for epoch, row in enumerate(figures.tolist(), 1)
    ]
    best = max(rows, key=lambda row: row["test/accuracy"])
    sweep = {**result["sweep"], "variants": {key: {} for key in variants}, "baseline": baseline}
    result["test_errors"] = list(range(10_000 - round(10_000 * rows[-1]["test/accuracy"])))
    result.update(config_hash=f"{variant}{seed}", epochs=rows, final=rows[-1], best=best, git_revision="0" * 40)
    return {**result, "sweep": sweep, "variant": variant}


def around(figures: np.ndarray, seed: int, *, spread: float = 0.02) -> np.ndarray:
    """Figures as another run might have them."""
    noise = np.random.default_rng(seed).normal(scale=spread, size=figures.shape)
    odds = figures / (1 - np.minimum(figures, 0.9999)) * np.exp(noise)
    return np.where([False, True, False, True], odds / (1 + odds), figures * np.exp(noise))


@pytest.fixture
def write_docs(tmp_path: Path) -> Callable[..., Path]:
    """A folder like docs/, with runs around the post's figures; as stated and with Glorot's weights far from them."""

    def write(*, without: str = "none", log: str = LOG.read_text()) -> Path:
        post = read_post_log(LOG)
        for name, sweep in (("reproduction", reproduction), ("reproduction_causes", reproduction_causes)):
            asked, runs = sweep.get_sweep(), []
            for variant in asked.variants:
                for seed in range(4 * (variant != without)):
                    figures = around(post[variant.split(",")[0]], seed)
                    if not variant.endswith("as logged"):
                        figures = figures**1.5
                    runs.append(make_run(figures, variant, seed, list(asked.variants), asked.baseline))
            add_results(tmp_path / name / "results.jsonl", runs)
        (tmp_path / "reproduction/post_log.csv").write_text(log)
        (tmp_path / "reproduction/outliers.csv").write_text(
            "experiment,epoch,metric,why\nvgg,2,train loss,a typing error\n"
        )
        for page in ("docs/reproduction.md", "README.md"):
            (tmp_path / Path(page).name).write_text((ROOT / page).read_text())
        return tmp_path

    return write


def run_command(docs: Path) -> str:
    with flagsaver.flagsaver(docs=str(docs), readme=str(docs / "README.md")):
        reproduce.main([""])
    return (docs / "reproduction.md").read_text()


def section(page: str, name: str) -> str:
    found = re.search(f"<!-- {name} -->\n(.*?)<!-- /{name} -->", page, re.DOTALL)
    assert found
    return found[1]


def test_the_log_has_all_that_the_post_prints() -> None:
    log = read_post_log(LOG)
    assert list(log) == list(EXPERIMENTS)
    assert sum(figures.size for figures in log.values()) == 284
    np.testing.assert_array_equal(log["vgg"][0], [1.3413, 0.5329, 0.1907, 0.9452])


def test_validation_is_what_the_post_would_have_printed() -> None:
    row = {f"{on}/{metric}": 0.5 for on in ("train", "test") for metric in ("loss", "accuracy")}
    augmented = row | {"test_augmented/loss": 0.6, "test_augmented/accuracy": 0.6}
    stream = augmented | {"test_stream/loss": 0.7, "test_stream/accuracy": 0.7}
    validation = [numbers_of({"epochs": [epoch]})[0, 2:].tolist() for epoch in (row, augmented, stream)]
    assert validation == [[0.5, 0.5], [0.6, 0.6], [0.7, 0.7]]


def test_a_figure_far_from_all_runs_is_outside() -> None:
    post = read_post_log(LOG)["vgg"]
    runs = [around(post, seed) for seed in range(5)]
    assert inside(post, runs).all()
    moved = post.copy()
    moved[3, 2] *= 2
    moved[5, 3] = 1.0  # all images right: log-odds stay finite
    assert np.argwhere(~inside(moved, runs)).tolist() == [[3, 2], [5, 3]]
    assert np.mean(list(inside_without_each(runs))) > 0.9
    assert np.argwhere(~list(inside_without_each([*runs, moved]))[-1]).tolist() == [[3, 2], [5, 3]]


def test_the_page_counts_and_explains(write_docs: Callable[..., Path]) -> None:
    log = LOG.read_text().replace("vgg,2,0.1524,0.9533", "vgg,2,0.2524,0.8533")
    docs = write_docs(log=log)
    page = run_command(docs)
    score = section(page, "score")
    assert "| `linear` | 44 of 44 (4 runs) |" in score
    assert "| `vgg` | 42 of 44 (4 runs) |" in score
    assert "**282 of 284** (99%)" in score
    outside = section(page, "outliers").splitlines()[2:]
    assert [line.split("|")[1:4] for line in outside] == [
        [" `vgg` ", " train loss, epoch 2 ", " a typing error "],
        [" `vgg` ", " train accuracy, epoch 2 ", " open "],
    ]
    assert "| `linear` | 22 of 22 | 11 of 22 | 11 of 22 |" in section(page, "validation")
    assert "**0.2524**" in section(page, "numbers vgg")
    results = section((docs / "README.md").read_text(), "results")
    assert "| `bn_dropout` |" in results
    stated = int(re.findall(r"(\d+) of its 284 printed numbers fall inside their 99%", results)[0])
    assert f"**{stated} of 284**" in score
    assert stated < 282
    assert "`:as_logged`: 282 numbers fall inside the intervals of those runs" in results
    levels = [line.split("|")[1].strip() for line in section(page, "levels").splitlines()[2:]]
    assert levels == ["50%", "80%", "90%", "95%", "99%"]
    assert section(page, "levels").splitlines()[-1].split("|")[2].strip() == "282 (99%)"
    assert all((docs / f"reproduction/{name}.png").stat().st_size > 10_000 for name in EXPERIMENTS)
    assert run_command(docs) == page


def test_runs_that_diverged_are_reported(write_docs: Callable[..., Path]) -> None:
    docs = write_docs()
    file = docs / "reproduction/results.jsonl"
    last = [run for run in read_file(file) if run["variant"] == "vgg, as stated"][-1]
    add_results(file, [make_diverged(last, "the loss is nan at step 945")])
    page = run_command(docs)
    sentence = "1 of 4 runs of **vgg, as stated** diverged (seed 3: the loss is nan at step 945)."
    assert sentence in section(page, "runs")
    assert "| `vgg` | a small VGG-like network | 3 |" in section(page, "as stated")
    assert sentence in section((docs / "README.md").read_text(), "results")


def test_a_study_that_is_not_far_enough(write_docs: Callable[..., Path]) -> None:
    docs = write_docs(without="vgg, as stated")
    with pytest.raises(UserError, match="fewer than 2 runs of 'vgg, as stated': run the sweep's others first"):
        run_command(docs)


@pytest.mark.parametrize("text", ["experiment,epoch\nvgg,1\n", ""])
def test_a_log_that_is_no_table(tmp_path: Path, text: str) -> None:
    file = tmp_path / "log.csv"
    if text:  # otherwise there is no file
        file.write_text(text)
    with pytest.raises(UserError, match=r"log.csv cannot be read .*expected experiment,epoch,"):
        read_post_log(file)
