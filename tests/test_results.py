"""`results.jsonl`: nothing is lost, nothing is there twice, and several processes can write it."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from digits_jax.errors import UserError
from digits_jax.studies.results import add_results, read_file, read_results
from tests.test_report import ACCURACIES, make_result

ROOT = Path(__file__).parents[1]


@pytest.fixture
def results() -> list[dict[str, Any]]:
    made = [make_result(v, seed, a) for v, accuracies in ACCURACIES.items() for seed, a in enumerate(accuracies)]
    return [
        {
            **r,
            "config": {**r["config"], "average_decay": {"none": 0.0, "half": 0.5, "some": 0.2}[r["variant"]]},
        }
        for r in made
    ]


def test_a_result_is_read_as_it_was_written(tmp_path: Path, results: list[dict[str, Any]]) -> None:
    random = np.random.default_rng(0)
    for index, result in enumerate(results):
        result["test_errors"] = np.flatnonzero(random.random(10_000) < 10.0 ** -(index % 5)).tolist()
        result["final"] = {**result["epochs"][1], "test_shifted/accuracy": 0.1 + 0.2}
        result["best"] = result["epochs"][index % 2]
        result["config"] |= {"nothing": None, "one": 1 if index % 2 else 1.0, "nested": {"list": [[1, 2], []]}}
    results[3]["epochs"][0]["only_here"] = 1e-300
    results[4]["image_shape"] = [28, 28, 1]
    file = tmp_path / "dropout" / "results.jsonl"
    add_results(file, results)
    assert {json.dumps(r, sort_keys=True) for r in read_file(file)} == {json.dumps(r, sort_keys=True) for r in results}


def test_misclassified_images_are_gaps_in_base64(tmp_path: Path, results: list[dict[str, Any]]) -> None:
    results[0]["test_errors"] = [0, 1, 33, 66, 66 + 1 + 32 * 32 + 5]
    add_results(tmp_path / "results.jsonl", results[:1])
    _, line = (tmp_path / "results.jsonl").read_text().splitlines()
    # Gaps 0, 0, 31, 32 = 0 + 32 * 1 and 1029 = 5 + 32 * (0 + 32 * 1); 32 more where a digit follows.
    assert json.loads(line)["test_errors"] == "AAf" + "gB" + "lgB"


def test_the_file_does_not_depend_on_the_order(tmp_path: Path, results: list[dict[str, Any]]) -> None:
    add_results(tmp_path / "a.jsonl", results)
    threads = [threading.Thread(target=add_results, args=(tmp_path / "b.jsonl", [r])) for r in reversed(results)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    add_results(tmp_path / "b.jsonl", results[2:4])  # they are there
    assert (tmp_path / "b.jsonl").read_text() == (tmp_path / "a.jsonl").read_text()


def test_a_variant_that_was_renamed_or_dropped(tmp_path: Path, results: list[dict[str, Any]]) -> None:
    file = tmp_path / "results.jsonl"
    add_results(file, results)
    variants = {"none": {}, "a half": {"model.hidden_dropout": 0.5}}
    sweep = {**results[0]["sweep"], "variants": variants, "question": "Does it?"}
    add_results(file, [{**r, "sweep": sweep, "variant": "a half"} for r in results if r["variant"] == "half"])
    found = read_file(file)
    assert [r["variant"] for r in found] == ["none"] * 4 + ["a half"] * 4 + ["some"] * 4
    assert {r["sweep"]["question"] for r in found} == {"Does it?"}


def test_two_configs_of_a_variant_and_seed_are_an_error(tmp_path: Path, results: list[dict[str, Any]]) -> None:
    other = {**results[0], "config": {**results[0]["config"], "batch_size": 7}, "config_hash": "other"}
    expected = "has two configs for variant 'none' with seed 0, none0 and other: expected one, delete the other"
    for name, result in (("a", results[0]), ("b", other)):
        add_results(tmp_path / name / "results.jsonl", [result])
    with pytest.raises(UserError, match=f"^dropout {expected}$"):
        read_results([tmp_path])
    file = tmp_path / "a" / "results.jsonl"
    before = file.read_text()
    with pytest.raises(UserError, match=f"^{file} {expected}$"):
        add_results(file, [other])
    assert file.read_text() == before
    file.write_text(
        before + before.splitlines()[1].replace('{"variant"', '{"config":{"batch_size":7},"variant"') + "\n"
    )
    with pytest.raises(UserError, match=f"^{file} has two configs for variant 'none' with seed 0"):
        read_results([file])
    # A config that lacks fields which were declared later is the same.
    with_default = {**results[0], "config": {**results[0]["config"], "batch_size": 64}}
    file.write_text(before)
    add_results(file, [with_default])
    assert [result["config"] for result in read_file(file)] == [with_default["config"]]


def test_the_committed_results_are_written_as_this_version_writes_them(tmp_path: Path) -> None:
    files = [*ROOT.glob("docs/**/results.jsonl")]
    assert len(files) == 14
    for file in files:
        assert file.stat().st_size < 1e6
        add_results(tmp_path / file.parent.name / "results.jsonl", read_file(file))
        assert (tmp_path / file.parent.name / "results.jsonl").read_text() == file.read_text()


def test_the_door_of_the_studies_is_light() -> None:
    code = "import sys; from digits_jax.studies import Sweep, load_runs; sys.exit(any(m in sys.modules for m in HEAVY))"
    heavy = ("jax", "matplotlib", "flax", "pandas", "scipy")
    subprocess.run([sys.executable, "-c", f"HEAVY = {heavy}\n{code}"], cwd=ROOT, check=True)
