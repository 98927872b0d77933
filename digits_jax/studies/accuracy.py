"""Plots accuracy against time and operations: `python -m digits_jax.studies.accuracy`

Rewrites `docs/accuracy.md` from the results of the sweeps `accuracy`, `accuracy_earlier`, `accuracy_gpu` and
`reproduction`, the times of `docs/speed_run.json`, the races of `docs/races.jsonl`, and evaluations of ensembles by
`digits_jax.apps.evaluate` (`docs/accuracy_ensembles/*.json`).
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from digits_jax import cli
from digits_jax.errors import UserError
from digits_jax.pages import code, markdown_table
from digits_jax.storage import read_text
from digits_jax.studies.accuracy_plots import Mark, plot_flops, plot_seconds
from digits_jax.studies.costs import layers_of, num_parameters, training_flops
from digits_jax.studies.docs import DOCS, README, read_json, replace_sections
from digits_jax.studies.published import published_table
from digits_jax.studies.report.statistics import Estimate, estimate, estimate_over_images
from digits_jax.studies.report.study import describe, describe_diverged, read_study, read_variants, scale_of, scores_of
from digits_jax.studies.reproduce.post_log import EXPERIMENTS
from digits_jax.studies.results import Result

THRESHOLDS = (0.99, 0.994)
STUDIES = ("choose_sprint", "choose_fast", "choose_tiny", "distillation", "fast")

# Test images with a label that fewer than three of five people agreed with, among those that Northcutt et al. 2021
# ("Pervasive label errors in test sets", labelerrors.com) showed to people because a model contradicted it.
MISLABELED = frozenset((947, 1621, 1901, 2130, 2462, 2597, 2654, 3520, 3558, 5937, 6651, 6783, 8527, 9679, 9729))

# Of the test images, the first were written by students and those from this index on by employees (QMNIST's
# labels, see `data.qmnist`).
_FIRST_BY_EMPLOYEES, _TEST_IMAGES = 5_001, 10_000
_ACCURACY = scale_of("test/accuracy")


class Point(NamedTuple):
    """The runs of a config, and the cost of an epoch."""

    name: str  # of the variant
    accuracies: list[list[float]]  # on the test set, by run and epoch
    epoch_seconds: float  # of training, the median of the measurements
    epoch_flops: float
    num_parameters: int

    final: Estimate  # the test accuracy of the final epoch, over seeds
    over_images: Estimate  # the same, over seeds and images

    @property
    def num_epochs(self) -> int:
        return len(self.accuracies[0])

    @property
    def seconds(self) -> float:
        return self.num_epochs * self.epoch_seconds

    @property
    def flops(self) -> float:
        return self.num_epochs * self.epoch_flops


class Data(NamedTuple):
    results: dict[str, list[Result]]  # by variant
    earlier: dict[str, list[Result]]  # the same of earlier configs
    gpu: dict[str, list[Result]]  # the same of configs that were trained on a GPU
    points: list[Point]
    speed: dict[str, Any]  # of `speed_run.json`
    races: list[dict[str, Any]]  # of `races.jsonl`
    ensembles: dict[str, dict[str, Any]]  # of `digits_jax.apps.evaluate`
    answers: dict[str, str]  # of the studies of `fast` and `strong`, by the folder of their report
    diverged: str  # sentences on the runs that did


def read_data(docs: Path) -> Data:
    """Reads the results, times and evaluations; raises a UserError if a variant has not been timed."""
    study, beyond = read_study(docs / "reproduction"), read_study(docs / "accuracy")
    stated = {name: runs for name, runs in study.by_variant().items() if name.endswith(", as stated")}
    results = {name: stated[f"{name}, as stated"] for name in EXPERIMENTS} | beyond.by_variant()
    gone = [run for run in (*study.diverged, *beyond.diverged) if run["variant"] in {*stated, *results}]
    diverged = describe_diverged(gone, [run for runs in results.values() for run in runs])
    speed = read_json(docs / "speed_run.json")
    races = [json.loads(line) for line in read_text(docs / "races.jsonl").splitlines()]
    answers = {}
    for name in STUDIES:
        report = docs / f"ablations/{name}/report.md"  # its first lines are the question and the answer
        found = report.read_text(encoding="utf-8").split("\n\n")[1] if report.exists() else "Its runs are missing."
        answers[name] = found
    ensembles = {file.stem: read_json(file) for file in sorted(docs.glob("accuracy_ensembles/*.json"))}
    earlier, gpu = (read_variants(docs / name) for name in ("accuracy_earlier", "accuracy_gpu"))
    points = _create_points(results, speed["configs"])
    return Data(results, earlier, gpu, points, speed, races, ensembles, answers, diverged)


def _create_points(results: Mapping[str, list[Result]], configs: Mapping[str, Any]) -> list[Point]:
    """Returns a point for each variant with two runs or more."""
    points = []
    for name, runs in results.items():
        if len(runs) < 2:
            continue
        if name not in configs:
            command = "python -m digits_jax.studies.benchmark.speed_run"
            raise UserError(f"speed_run.json has not timed {name!r}: run {command} again")
        accuracies = [[row["test/accuracy"] for row in run["epochs"]] for run in runs]
        images, cost, model = runs[0]["config"]["dataset"]["train_examples"], configs[name], runs[0]["config"]["model"]
        seconds = images * statistics.median(cost["seconds_per_image"])
        flops = images * cost["flops_per_image"]
        points.append(Point(name, accuracies, seconds, flops, _size(model), *_estimates(runs)))
    return points


def _estimates(runs: Sequence[Result]) -> tuple[Estimate, Estimate]:
    """Returns the test accuracy of the final epoch, over seeds and over seeds and images."""
    scores = scores_of(runs, "test/accuracy")
    return estimate(list(scores.values.values())), estimate_over_images(scores)


def sections(data: Data) -> dict[str, str]:
    """Returns the generated sections of the page."""
    machine = data.speed["environment"]
    return {
        "runs": f"{describe([run for runs in data.results.values() for run in runs])} {data.diverged}",
        "machine": f"Timed on {machine['cores']} cores of {machine['cpu']}, jax {machine['jax']}.",
        "configs": _configs_table(data.points),
        "thresholds": _thresholds_table(data.points),
        "earlier": _estimates_table("earlier config", data.earlier),
        "gpu": f"{_estimates_table('config', data.gpu)}\n{describe([r for runs in data.gpu.values() for r in runs])}",
        "races": _races_table(data.races),
        **data.answers,
        "ensembles": _ensembles_table(data.ensembles),
        "small": _small(data.points),
        "groups": _groups_table(data.results),
        "published": published_table(),
        "misclassified": _misclassified(data),
    }


def readme_section(data: Data) -> str:
    """Returns the table in the README of the configs that go beyond the post."""
    machine = f"{data.speed['environment']['cores']} cores of {data.speed['environment']['cpu']}"
    own = [point for point in data.points if point.name not in EXPERIMENTS]
    found = [(p.name, p.num_parameters, f"{p.seconds:,.0f}", p.final, p.over_images) for p in own]
    for name, runs in data.gpu.items():
        seconds = statistics.fmean(sum(row["train/seconds"] for row in run["epochs"]) for run in runs)
        time = f"{seconds:,.0f} on one {runs[0]['devices'][0]}"
        found.append((name, _size(runs[0]["config"]["model"]), time, *_estimates(runs)))
    rows = [
        (
            code(name), f"{size:,}", str(final.n), time, f"{_ACCURACY.text(final.mean)} ± {_ACCURACY.text(final.std)}%",
            _ACCURACY.interval(over_images),
        )
        for name, size, time, final, over_images in found
    ]  # fmt: skip
    header = ("beyond the post", "parameters", "seeds", "seconds", "final test accuracy", "95% CI")
    return f"{markdown_table(header, rows)}\nSeconds of training are on {machine}, unless another device is named."


def _size(model: Mapping[str, Any]) -> int:
    """Returns the number of parameters of a recorded `config.model`."""
    return num_parameters(layers_of(model), batch_norm=model.get("batch_norm") not in (None, "none"))


def plots(data: Data) -> dict[str, Figure]:
    """Draws accuracy against seconds and against operations; returns the plots by file name."""
    by_flops = [Mark(point.name, point.flops / 1e12, point.over_images) for point in data.points]
    for name, runs in data.gpu.items():
        model, images = runs[0]["config"]["model"], runs[0]["config"]["dataset"]["train_examples"]
        flops = training_flops(layers_of(model), len(runs[0]["epochs"]) * images)
        by_flops.append(Mark(name, flops / 1e12, _estimates(runs)[1]))
    by_seconds = [Mark(point.name, point.seconds, point.over_images) for point in data.points]
    return {"accuracy.png": plot_seconds(by_seconds), "accuracy_flops.png": plot_flops(by_flops)}


def _configs_table(points: Sequence[Point]) -> str:
    rows = [
        (
            code(point.name), f"{point.num_parameters:,}", str(point.final.n), f"{_ACCURACY.text(point.final.mean)}%",
            _ACCURACY.interval(point.final), _ACCURACY.interval(point.over_images), str(point.num_epochs),
            f"{point.seconds:,.0f}", f"{point.flops / 1e12:.3g}",
        )
        for point in sorted(points, key=lambda point: point.seconds)
    ]  # fmt: skip
    header = (
        "config", "parameters", "seeds", "final test accuracy", "95% CI over seeds", "over seeds and images", "epochs",
        "seconds of training", "TFLOP",
    )  # fmt: skip
    return markdown_table(header, rows)


def _estimates_table(what: str, results: Mapping[str, Sequence[Result]]) -> str:
    rows = []
    for name, runs in results.items():
        final, over_images = _estimates(runs)
        intervals = (_ACCURACY.interval(value) for value in (final, over_images))
        rows.append((name, str(final.n), f"{_ACCURACY.text(final.mean)}%", *intervals))
    return markdown_table((what, "seeds", "final test accuracy", "CI over seeds", "and images"), rows)


def first_epoch(point: Point, threshold: float) -> int | None:
    """Returns the first epoch, from 1, after which the mean over the seeds reaches the threshold."""
    means = [statistics.fmean(epoch) for epoch in zip(*point.accuracies, strict=True)]
    return next((number for number, mean in enumerate(means, 1) if mean >= threshold), None)


def _thresholds_table(points: Sequence[Point]) -> str:
    """Returns the seconds of training until each of `THRESHOLDS`, for the configs that reach one."""
    rows = []
    for point in points:
        epochs = [first_epoch(point, threshold) for threshold in THRESHOLDS]
        if any(epochs):
            cells = (f"{n * point.epoch_seconds:,.0f} ({n} epoch{'s' * (n > 1)})" if n else "" for n in epochs)
            rows.append((code(point.name), *cells))
    return markdown_table(("seconds to", *(f"{100 * threshold:.1f}%" for threshold in THRESHOLDS)), rows)


def _races_table(races: Sequence[Mapping[str, Any]]) -> str:
    """Returns a row for each race of a recipe of this project against the same recipe in PyTorch."""
    rows = []
    for race in races:
        for name in (name for name in race["sides"] if f"{name} in PyTorch" in race["sides"]):
            ours, theirs = race["sides"][name], race["sides"][f"{name} in PyTorch"]
            ratios = sorted(b / a for a, b in zip(ours["seconds"], theirs["seconds"], strict=True))
            rows.append((
                race["date"], f"{race['environment']['cpu']}; {race['note']}", code(name), str(len(ratios)),
                *(f"{statistics.median(side['seconds']):.1f}" for side in (ours, theirs)),
                f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
                *(f"{100 * statistics.fmean(side['accuracy']):.2f}%" for side in (ours, theirs)),
            ))  # fmt: skip
    header = (
        "date", "processor and programs", "recipe", "seeds", "seconds", "PyTorch's", "digits_jax is faster by",
        "final test accuracy", "PyTorch's",
    )  # fmt: skip
    return markdown_table(header, rows, text_columns=3)


def _ensembles_table(evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, found in evaluations.items():
        accuracy = found["accuracy"]
        rows.append((
            code(name), str(len(found["models"])), found["test_time_augmentation"],
            f"{100 * statistics.fmean(model['accuracy'] for model in found['models']):.2f}%",
            f"{100 * accuracy['fraction']:.2f}% ({100 * accuracy['low']:.2f} to {100 * accuracy['high']:.2f})",
            f"{100 * found['expected_calibration_error']:.1f}%",
        ))  # fmt: skip
    header = (
        "config", "seeds", "test-time augmentation", "mean of the models", "ensemble (95% CI over images)",
        "calibration error",
    )  # fmt: skip
    return markdown_table(header, rows)


def _small(points: Sequence[Point]) -> str:
    """Returns a sentence on the size of `tiny`, beside that of the linear model."""
    named = {point.name: point for point in points}
    if "tiny" not in named:
        return "Its runs are missing."
    tiny, linear = named["tiny"], named["linear"]
    return (
        f"`tiny` has {tiny.num_parameters:,} parameters, {4 * tiny.num_parameters / 1000:.0f} kB as float32, where "
        f"`linear` has {linear.num_parameters:,}. A prediction takes {tiny.epoch_flops / 60_000 / 6e6:.2f} "
        f"million multiply-adds. It reaches {_ACCURACY.text(tiny.final.mean)} ± {_ACCURACY.text(tiny.final.std)}% "
        f"(mean ± standard deviation over {tiny.final.n} seeds, final epochs)."
    )


def _groups_table(results: Mapping[str, Sequence[Result]]) -> str:
    """Returns the mean test accuracy of each config on the digits of each group of writers."""
    rows = []
    for name, runs in results.items():
        by_employees = [sum(index >= _FIRST_BY_EMPLOYEES for index in run["test_errors"]) for run in runs]
        by_students = [len(run["test_errors"]) - errors for run, errors in zip(runs, by_employees, strict=True)]
        fractions = (
            statistics.fmean(by_employees) / (_TEST_IMAGES - _FIRST_BY_EMPLOYEES),
            statistics.fmean(by_students) / _FIRST_BY_EMPLOYEES,
        )
        rows.append((code(name), *(f"{100 * (1 - fraction):.2f}%" for fraction in fractions)))
    return markdown_table(("config", "employees' digits", "students' digits"), rows)


def _misclassified(data: Data) -> str:
    """Returns the test images that all runs of the most accurate config misclassify."""
    name = max(data.points, key=lambda point: point.final.mean).name
    runs = data.results[name]
    images = sorted(set.intersection(*(set(run["test_errors"]) for run in runs)))
    known = MISLABELED.intersection(images)
    listed = ", ".join(f"**{index}**" if index in known else str(index) for index in images)
    same = f"All {len(runs)} runs of {code(name)} misclassify the same {len(images)} images"
    mislabeled = f"{len(known)} of which (in bold) are among the {len(MISLABELED)} known to be mislabeled"
    return f"{same}, {mislabeled}. By index, from 0: {listed}."


def main(argv: list[str]) -> None:
    docs = Path(DOCS.value)
    data = read_data(docs)
    replace_sections(docs / "accuracy.md", sections(data))
    replace_sections(Path(README.value), {"beyond": readme_section(data)})
    for name, figure in plots(data).items():
        figure.savefig(docs / name)
    cli.console.print(f"{len(data.points)} configs in {docs / 'accuracy.md'}")


if __name__ == "__main__":
    cli.run(main)
