"""The results of one sweep, sorted by variant and seed, and how their figures are written."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from digits_jax.errors import UserError
from digits_jax.runs.console import duration
from digits_jax.studies.report.statistics import Estimate
from digits_jax.studies.results import read_results


class Variant(NamedTuple):
    """The runs of one variant."""

    name: str
    results: list[dict[str, Any]]  # by seed

    def values(self, metric: str) -> dict[int, float]:
        """The final epoch's, by seed."""
        return {result["config"]["seed"]: result["final"][metric] for result in self.results}


class Study(NamedTuple):
    """Result files, sorted."""

    name: str
    question: str
    baseline: Variant
    others: list[Variant]

    @property
    def variants(self) -> list[Variant]:
        return [self.baseline, *self.others]

    @property
    def results(self) -> list[dict[str, Any]]:
        return [result for variant in self.variants for result in variant.results]


def create_study(results: Sequence[dict[str, Any]]) -> Study:
    """Sorts the results of one sweep by variant and seed.

    Raises:
      UserError: they are of several sweeps, of none, or the baseline has no run yet.
    """
    names = sorted({result.get("study", {}).get("sweep", "") for result in results})
    if names == [""] or len(names) > 1:
        found = ", ".join(name or "runs of no sweep" for name in names)
        raise UserError(f"the results are of {found}: expected those of one sweep, such as runs/sweeps/hidden_dropout")
    study = results[0]["study"]
    by_variant: dict[str, list[dict[str, Any]]] = {name: [] for name in study["variants"]}
    for result in sorted(results, key=lambda result: result["config"]["seed"]):
        by_variant.setdefault(result["study"]["variant"], []).append(result)
    variants = {name: Variant(name, runs) for name, runs in by_variant.items() if runs}
    baseline = variants.pop(study["baseline"], None)
    if baseline is None:
        raise UserError(f"no run of the baseline {study['baseline']!r} is finished: there is nothing to compare with")
    return Study(study["sweep"], study["question"], baseline, list(variants.values()))


def read_variants(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The results of a sweep by variant, each sorted by seed."""
    return {variant.name: variant.results for variant in create_study(read_results([folder])).variants}


def processor(result: dict[str, Any]) -> str:
    """What a run was trained on, such as "2 cores of a processor"."""
    return f"{result['cores']} core{'s' * (result['cores'] > 1)} of {result['cpu']}"


def describe(results: Sequence[dict[str, Any]]) -> str:
    """What trained them."""
    machines = Counter(f"{processor(r)}, jax {r['versions']['jax']}" for r in results)
    commits = ", ".join(sorted({r["git_revision"][:7] for r in results}))
    seconds = sum(row["train/seconds"] for r in results for row in r["epochs"])
    return f"{len(results)} runs, trained in {duration(seconds)} on {'; '.join(machines)}, at commit {commits}."


class Scale(NamedTuple):
    """How a metric is written: accuracies in per cent and their differences in percentage points, losses in nats."""

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


def scale_of(metric: str) -> Scale:
    name = metric.replace("/", " ").replace("_", " ")
    if metric.endswith("accuracy"):
        return Scale(name, 100.0, " %", " points", 2, higher_is_better=True)
    unit = " nats" if metric.endswith("loss") else ""
    return Scale(name, 1.0, unit, unit, 4, higher_is_better=False)
