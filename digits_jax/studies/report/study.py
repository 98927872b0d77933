"""A sweep with its results, by variant and seed, and the units in which metrics are printed."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from digits_jax.cli import duration, warn
from digits_jax.errors import UserError
from digits_jax.pages import escape
from digits_jax.studies.report.statistics import Estimate, Scores
from digits_jax.studies.results import Result, read_runs, scored
from digits_jax.studies.sweep import Sweep

LOG_ODDS_BELOW = 0.95


class Variant(NamedTuple):
    """The runs of one variant."""

    name: str
    results: list[Result]  # by seed

    def values(self, metric: str) -> dict[int, float]:
        """Returns a metric of the final epoch, by seed."""
        return {result["config"]["seed"]: result["final"][metric] for result in self.results}


class Study(NamedTuple):
    """A sweep and the results of its finished runs."""

    sweep: Sweep
    baseline: Variant
    others: list[Variant]
    diverged: list[Result]  # of `read_diverged`, by variant and seed

    @property
    def variants(self) -> list[Variant]:
        return [self.baseline, *self.others]

    @property
    def results(self) -> list[Result]:
        return [result for variant in self.variants for result in variant.results]

    def by_variant(self) -> dict[str, list[Result]]:
        return {variant.name: variant.results for variant in self.variants}

    @property
    def split(self) -> str:
        """The images that all runs were scored on: "test", or "validation" where the test images were left alone."""
        return "test" if all("test" in scored(result) for result in self.results) else "validation"

    def images(self, split: str) -> tuple[str, str, int] | None:
        """Returns the data set of all runs by name and hash, and how many of its images they were scored on.

        None if these are not the same images.
        """
        found = set()
        for result in self.results:
            fields = result["config"]["dataset"]
            held_out = [fields.get(key) for key in ("validation_examples", "validation_split")]
            dataset = result["dataset"]
            images = (dataset["name"], dataset["sha256"], scored(result).get(split))
            found.add((images, tuple(held_out) if split == "validation" else ()))
        ((name, sha256, count), _), *others = found
        return None if others or count is None else (name, sha256, count)

    def scores(self, variant: Variant, metric: str) -> Scores:
        """Returns a metric of the final epoch; with the misclassified images where all runs have the same ones."""
        return scores_of(
            variant.results, metric, images_known=self.images(metric.removesuffix("/accuracy")) is not None
        )

    def log_odds(self, metric: str) -> bool:
        """Returns whether differences of a metric are on log-odds: of accuracies, if a mean is below `LOG_ODDS_BELOW`.

        Far from 100% the spread over seeds depends on the mean, and differences in points do not compare.
        """
        means = [float(np.mean(list(variant.values(metric).values()))) for variant in self.variants]
        return metric.endswith("accuracy") and min(means) < LOG_ODDS_BELOW

    def each_epoch(self, *metrics: str) -> str:
        """Returns the first of the metrics, or the accuracy, that all runs have after each epoch."""
        for metric in (*metrics, "test/accuracy", "validation/accuracy"):
            if all(metric in row for result in self.results for row in result["epochs"]):
                return metric
        raise UserError("the runs share no accuracy by epoch: expected dataset.validation_examples in all, or in none")


def scores_of(results: Sequence[Result], metric: str, *, images_known: bool = True) -> Scores:
    """Returns a metric of the final epoch of runs with different seeds, with the misclassified images if known."""
    values = {result["config"]["seed"]: result["final"][metric] for result in results}
    split = metric.removesuffix("/accuracy")
    if not images_known or any(split not in scored(result) for result in results):
        return Scores(values)
    wrong = {r["config"]["seed"]: np.isin(np.arange(scored(r)[split]), r[f"{split}_errors"]) for r in results}
    return Scores(values, wrong)


def create_study(results: Sequence[Result], diverged: Sequence[Result] = ()) -> Study:
    """Sorts the results of one sweep, and its diverged runs, by variant and seed.

    Raises a UserError if it lacks results of the baseline.

    The sweep is that of the first result; results that it does not ask for, since it was edited, are left out.
    """
    names = sorted({result.get("sweep", {}).get("name", "") for result in results})
    if names == [""] or len(names) != 1:
        found = ", ".join(name or "runs of no sweep" for name in names) or "no finished run"
        raise UserError(f"the results are of {found}: expected those of one sweep, such as runs/sweeps/hidden_dropout")
    sweep = Sweep(**results[0]["sweep"])
    variants = {name: Variant(name, []) for name in sweep.variants}
    left_out: list[str] = []
    gone: list[Result] = []
    for result in sorted([*results, *diverged], key=lambda result: result["config"]["seed"]):
        name, seed = result["variant"], result["config"]["seed"]
        same = name in variants and result["sweep"]["variants"].get(name) == sweep.variants[name]
        if same and seed in sweep.seeds(name):
            (gone if "diverged" in result else variants[name].results).append(result)
        else:
            left_out.append(f"{name!r} with seed {seed}")
    if left_out:
        warn(f"runs that the sweep {sweep.name} no longer asks for are left out: {', '.join(sorted(left_out))}")
    baseline, *others = (variants.pop(sweep.baseline), *variants.values())
    if not baseline.results:
        raise UserError(f"no run of the baseline {sweep.baseline!r} is finished: there is nothing to compare with")
    gone.sort(key=lambda run: [*sweep.variants].index(run["variant"]))
    return Study(sweep, baseline, [variant for variant in others if variant.results], gone)


def read_study(*paths: str | Path) -> Study:
    """Reads the study of a sweep from files, or folders with them; raises as `read_runs` and `create_study`."""
    return create_study(*read_runs(paths))


def read_variants(folder: Path) -> dict[str, list[Result]]:
    """Reads the results of a sweep by variant, each sorted by seed."""
    return read_study(folder).by_variant()


def describe_diverged(diverged: Sequence[Result], finished: Sequence[Result]) -> str:
    """Returns sentences on the runs that diverged, and how; empty if none did."""
    total, seeds = (
        Counter(run["variant"] for run in (*diverged, *finished)),
        defaultdict[str, dict[str, list[int]]](dict),
    )
    for run in diverged:
        seeds[run["variant"]].setdefault(run["diverged"], []).append(run["config"]["seed"])
    sentences = []
    for name, ways in seeds.items():
        how = (f"seed{'s' * (len(s) > 1)} {', '.join(map(str, s))}: {escape(what)}" for what, s in ways.items())
        gone = sum(map(len, ways.values()))
        sentences.append(f"{gone} of {total[name]} runs of **{escape(name)}** diverged ({'; '.join(how)}).")
    return " ".join([*sentences, "Means and intervals are of the other runs."] if sentences else [])


def processor(result: Result) -> str:
    """Returns the hardware of a run, such as "2 cores of NAME" or the name of an accelerator."""
    accelerators = [device for device in result.get("devices", ()) if device != "cpu"]
    if accelerators:
        return f"{len(accelerators)} {accelerators[0]}"
    return f"{result['cores']} core{'s' * (result['cores'] > 1)} of {result['cpu']}"


def training_images(results: Sequence[Result]) -> str:
    """Returns the numbers of training images, such as "12,000 or 60,000"."""
    return " or ".join(f"{n:,}" for n in sorted({r["config"]["dataset"]["train_examples"] for r in results}))


def training_time(results: Sequence[Result]) -> str:
    return duration(sum(row["train/seconds"] for result in results for row in result["epochs"]))


def describe(results: Sequence[Result]) -> str:
    """Returns a sentence on how many runs there are and on which machines they were trained."""
    machines = "; ".join(dict.fromkeys(escape(f"{processor(r)}, jax {r['versions']['jax']}") for r in results))
    commits = ", ".join(sorted({_abbreviate(r.get("git_revision") or "unknown") for r in results}))
    return f"{len(results)} runs, trained in {training_time(results)} on {machines}, at commit {commits}."


def _abbreviate(revision: str) -> str:
    commit, plus, changes = revision.partition("+")
    return escape(f"{commit[:7]}{plus}{changes}")


class Scale(NamedTuple):
    """The units of a metric: accuracies in %, their differences in percentage points, losses in nats."""

    name: str
    factor: float
    unit: str
    difference_unit: str
    digits: int
    higher_is_better: bool

    def text(self, value: float, *, sign: bool = False) -> str:
        return f"{self.factor * value:{'+' if sign else ''}.{self.digits}f}"

    def interval(self, value: Estimate, *, sign: bool = False) -> str:
        return f"{self.text(value.low, sign=sign)} to {self.text(value.high, sign=sign)}" if value.n > 1 else "-"


def scale_of(metric: str, *, log_odds: bool = False) -> Scale:
    """Returns the scale of a metric such as "test/accuracy", or of its differences where these are of log-odds."""
    name = metric.replace("/", " ").replace("_", " ")
    if log_odds:
        return Scale(f"log-odds of the {name}", 1.0, "", " log-odds", 2, higher_is_better=True)
    if metric.endswith("accuracy"):
        return Scale(name, 100.0, "%", " points", 2, higher_is_better=True)
    unit = " nats" if metric.endswith("loss") else ""
    return Scale(name, 1.0, unit, unit, 4, higher_is_better=False)
