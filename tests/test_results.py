"""`results.jsonl`: nothing is lost, nothing is there twice, and several processes can write it."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from digits_jax.errors import UserError
from digits_jax.studies.results import add_results, read_diverged, read_file, read_results
from tests.test_report import ACCURACIES, make_diverged, make_result

ROOT = Path(__file__).parents[1]


@pytest.fixture
def results() -> list[dict[str, Any]]:
    return [make_result(v, seed, a) for v, accuracies in ACCURACIES.items() for seed, a in enumerate(accuracies)]


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


def test_a_diverged_run_is_kept_until_it_finishes(tmp_path: Path, results: list[dict[str, Any]]) -> None:
    file = tmp_path / "dropout" / "results.jsonl"
    finished, diverged = results[:-1], make_diverged(results[-1], "the loss is nan at step 9")
    add_results(file, [diverged])  # before any run is finished
    assert read_file(file) == []
    add_results(file, finished)
    assert read_diverged([tmp_path]) == [diverged]
    assert len(read_results([tmp_path])) == len(finished)
    add_results(file, results[-1:])
    assert read_diverged([file]) == []
    assert len(read_results([file])) == len(results)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, '{"variant":"half","diverged":7}']) + "\n")
    with pytest.raises(UserError, match=rf"^{file}, line {len(lines) + 1} cannot be read \(.*diverged"):
        read_results([file])


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
    found = "'none0' with seed 0 and 'other' with seed 0: expected one, delete the others"
    expected = f"has two configs for variant 'none', {found}"
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
    with pytest.raises(UserError, match=f"^{file} has two configs for variant 'none', 'none0' with seed 0 and"):
        read_results([file])
    # Another seed's config may differ in nothing but the seed.
    file.write_text(before)
    with pytest.raises(UserError, match="'none0' with seed 0 and 'other' with seed 1: expected one"):
        add_results(file, [{**other, "config": {**other["config"], "seed": 1}}])
    # A config that lacks fields which were declared later is the same.
    with_default = {**results[0], "config": {**results[0]["config"], "batch_size": 64}}
    file.write_text(before)
    add_results(file, [with_default])
    assert [result["config"] for result in read_file(file)] == [with_default["config"]]


def _set(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(result: dict[str, Any]) -> None:
        for key in path[:-1]:
            result = result[key]
        result[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("sweep", "name", value="../../x"), r'sweep.name is "../../x": expected a name, such as vgg'),
        (_set("sweep", "name", value="/tmp/x"), r'sweep.name is "/tmp/x": expected a name'),
        (_set("sweep", "name", value=".."), r'sweep.name is "..": expected a name'),
        (_set("sweep", "baseline", value="nope"), r'sweep.baseline is "nope": expected one of none, half, some'),
        (_set("sweep", "num_seeds", value="x"), r'sweep.num_seeds is "x": expected an integer >= 1'),
        (_set("sweep", "question", value="\ud800"), r".*surrogates not allowed"),
        (_set("dataset", "name", value="../x"), r'dataset.name is "../x": expected a name'),
        (_set("dataset", "sha256", value=5), r"dataset.sha256 is 5: expected 64 hexadecimal digits"),
        (_set("config", "seed", value=-1), r"config.seed is -1: expected an integer >= 0"),
        (_set("epochs", 1, "test/accuracy", value=float("nan")), r"it has the number NaN: expected finite ones"),
        (_set("epochs", 1, "train/loss", value=float("inf")), r"it has the number Infinity: expected finite ones"),
        (
            _set("epochs", 1, "test/accuracy", value=1.5),
            r"epochs.2.test/accuracy is 1.5: expected a number in \[0, 1\]",
        ),
        (_set("epochs", 0, "train/seconds", value=1e300), r".*1e\+300: expected a number in "),
        (_set("epochs", 0, "epoch", value=2), r"epochs.1.epoch is 2: expected an integer from 1 to 1"),
        (_set("final", value={}), r"final.epoch is missing: expected an integer >= 1"),
        (_set("final", value={"epoch": 3}), r"final.epoch is 3: expected an integer from 1 to 2"),
        (_set("test_errors", value=[7, 7]), r"test_errors is .*: expected "),
        (_set("test_errors", value=[10_000]), r"test_errors is \[10000\]: expected .* integer from 0 to 9999"),
        (_set("versions", value=[]), r"versions is \[\]: expected fields and values"),
    ],
)
def test_a_field_out_of_bounds_is_named(
    tmp_path: Path, results: list[dict[str, Any]], change: Callable[[dict[str, Any]], None], message: str
) -> None:
    result = json.loads(json.dumps(results[0]))
    change(result)
    file = tmp_path / "run" / "result.json"
    file.parent.mkdir()
    file.write_text(json.dumps(result))
    with pytest.raises(UserError, match=rf"^{file} cannot be read \({message}.*\)$"):
        read_results([tmp_path])


@pytest.mark.parametrize(
    ("number", "before", "after", "message"),
    [
        (1, '"name":"dropout"', '"name":"../x"', r'sweep.name is "../x": expected a name, such as vgg'),
        (1, '"runs":{', '"runs":5,"x":{', r"runs is 5: expected fields and values"),
        (1, '"columns":', '"c":', r"columns is missing: expected a list"),
        (2, '"variant":"none"', '"variant":"x"', r"variants.x is missing: expected fields and values"),
        (2, '"test_errors":"', '"test_errors":"gggggggg', r'test_errors is "ggg.*: expected unsigned base64 VLQ'),
        (2, '"rows":[[1,', '"rows":[[', r"zip\(\) argument 2 is shorter than argument 1"),
        (2, '"final":{"epoch":2}', '"final":{"epoch":9}', r"final.epoch is 9: expected an integer from 1 to 2"),
        (2, '"final":{"epoch":2}', '"final":{}', r"final.epoch is missing: expected an integer >= 1"),
        (2, "0.1,", "Infinity,", r"it has the number Infinity: expected finite ones"),
        (2, '"rows"', '"dataset":5,"rows"', r"dataset is 5: expected fields and values"),
    ],
)
def test_a_line_that_is_no_result(
    tmp_path: Path, results: list[dict[str, Any]], number: int, before: str, after: str, message: str
) -> None:
    file = tmp_path / "results.jsonl"
    add_results(file, results[:1])
    lines = file.read_text().splitlines(keepends=True)
    assert before in lines[number - 1]
    lines[number - 1] = lines[number - 1].replace(before, after)
    file.write_text("".join(lines))
    with pytest.raises(UserError, match=rf"^{file}, line [12] cannot be read \({message}.*\)$"):
        read_results([file])


def test_results_that_cannot_be_written(tmp_path: Path, results: list[dict[str, Any]]) -> None:
    folder, full = tmp_path / "folder", tmp_path / "full"
    (folder / "results.jsonl").mkdir(parents=True)
    (tmp_path / "file").touch()
    full.mkdir()
    (full / f"results.jsonl.{os.getpid()}.tmp").symlink_to("/dev/full")
    for path, reason in (
        (folder, r"cannot be read \(Is a directory\)"),
        (tmp_path / "file", r"cannot be written \(File exists; .*\): give another --results"),
        (full, r"cannot be written \(No space left on device; .* MB are free\): give another --results"),
    ):
        with pytest.raises(UserError, match=rf"^{path}/results.jsonl {reason}$"):
            add_results(path / "results.jsonl", results)


def test_the_committed_results_are_written_as_this_version_writes_them(tmp_path: Path) -> None:
    files = [*ROOT.glob("docs/**/results.jsonl")]
    assert len(files) >= 14
    for file in files:
        assert file.stat().st_size < 1e6
        add_results(tmp_path / file.parent.name / "results.jsonl", [*read_file(file), *read_diverged([file])])
        assert (tmp_path / file.parent.name / "results.jsonl").read_text() == file.read_text()


def test_the_door_of_the_studies_is_light() -> None:
    code = "import sys; from digits_jax.studies import Sweep, load_runs; sys.exit(any(m in sys.modules for m in HEAVY))"
    heavy = ("jax", "matplotlib", "flax", "pandas", "scipy")
    subprocess.run([sys.executable, "-c", f"HEAVY = {heavy}\n{code}"], cwd=ROOT, check=True)
