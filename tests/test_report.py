"""The page of a sweep and the table for notebooks, from result files made up here."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from absl.testing import flagsaver

from digits_jax.data import Arrays
from digits_jax.errors import ConfigError, UserError
from digits_jax.pages import to_html
from digits_jax.studies import ablations, load_runs
from digits_jax.studies.report import __main__ as report
from digits_jax.studies.report import page as report_page
from digits_jax.studies.report.page import gallery, write_page
from digits_jax.studies.report.statistics import (
    Comparison,
    Estimate,
    compare_to_baseline,
    estimate,
    estimate_over_images,
)
from digits_jax.studies.report.study import create_study, scale_of, scores_of
from digits_jax.studies.results import add_results, read_results

# Final test accuracy by variant and seed.
ACCURACIES = {
    "none": [0.980, 0.982, 0.981, 0.983],
    "half": [0.990, 0.9915, 0.991, 0.9926],  # about 0.98 points better, each time
    "some": [0.981, 0.981, 0.9815, 0.9825],  # now more, now less
}


def make_result(variant: str, seed: int, accuracy: float, *, sweep: str = "dropout") -> dict[str, Any]:
    rows = [
        {"epoch": epoch, "step": 10 * epoch, "train/loss": 1 / epoch, "train/seconds": 2.0, "test/loss": 0.1 / epoch,
         "test/accuracy": accuracy - (0.02 if epoch == 1 else 0.0)}
        for epoch in (1, 2)
    ]  # fmt: skip
    # Image 7 is misclassified by all runs, the others by those of a seed.
    start, count = 1_000 * (1 + seed % 8), 10_000 - round(10_000 * rows[-1]["test/accuracy"])
    decay = {"half": 0.5, "some": 0.2}.get(variant, 0.0)  # so that their configs differ
    return {
        "config_hash": f"{variant}{seed}",
        "config": {"seed": seed, "dataset": {"name": "mnist", "train_examples": 12_000}, "average_decay": decay},
        "dataset": {"name": "mnist", "sha256": "0" * 64, "test_examples": 10_000},
        "cores": 2,
        "cpu": "A Processor",
        "versions": {"jax": "0.10.2"},
        "final": rows[-1],
        "best": rows[-1],
        "epochs": rows,
        "test_errors": [7, *range(start, start + count - 1)] if count else [],
        "variant": variant,
        "sweep": {
            "name": sweep,
            "question": "Does dropout help?",
            "config": "configs/bn_dropout.py",
            "baseline": "none",
            "variants": {name: {"model.hidden_dropout": 0.5} for name in ACCURACIES},
            "num_seeds": 4,
        },
    }


def make_diverged(result: dict[str, Any], how: str) -> dict[str, Any]:
    """The record of a run that diverged, instead of finishing with this result."""
    known = ("variant", "sweep", "config_hash", "config", "dataset")
    return {key: result[key] for key in known} | {"diverged": how, "git_revision": None, "code_hash": "0" * 64}


@pytest.fixture
def results() -> list[dict[str, Any]]:
    return [make_result(v, seed, a) for v, accuracies in ACCURACIES.items() for seed, a in enumerate(accuracies)]


@pytest.fixture
def write_results(tmp_path: Path) -> Callable[..., Path]:
    def write(results: list[dict[str, Any]]) -> Path:
        folder = tmp_path / "results"
        add_results(folder / "results.jsonl", results)
        return folder

    return write


def table_row(page: str, name: str, section: str, *, row: int = 0) -> list[str]:
    """The cells of the row that is the first, or another, of this name in the section with this heading."""
    part = page.split(f"\n## {section}", 1)[1].split("\n## ", 1)[0]
    line = re.findall(rf"^\| {re.escape(name)} \|.*$", part, re.MULTILINE)[row]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_page_reports_runs_that_diverged(results: list[dict[str, Any]]) -> None:
    gone = [make_diverged(results.pop(index), "the loss is nan at step 9") for index in (-1, 5)]  # of "some" and "half"
    page, _ = report_page.build_page(create_study(results, gone))
    assert (
        "\n\n1 of 4 runs of **half** diverged (seed 1: the loss is nan at step 9). 1 of 4 runs of **some** diverged "
        "(seed 3: the loss is nan at step 9). Means and intervals are of the other runs.\n\n"
    ) in page
    assert table_row(page, "half", "Test accuracy of the final epoch")[1] == "3"


def difference_row(page: str, name: str) -> list[str]:
    return table_row(page, name, "Test accuracy of the final epoch", row=1)


def test_the_page_says_what_the_runs_say(results: list[dict[str, Any]]) -> None:
    page, figures = report_page.build_page(create_study(results))
    assert page.startswith("# Does dropout help?\n\n**half** (+0.98 points, ")
    assert "\n\n12 runs of 3 variants on mnist (12,000 training images), " in page
    assert "trained in 48 s on 2 cores of A Processor with jax 0.10.2. Baseline: **none**." in page
    scores = {
        name: scores_of([result for result in results if result["variant"] == name], "test/accuracy")
        for name in ACCURACIES
    }
    over_images = estimate_over_images(scores["half"])
    found = estimate(ACCURACIES["half"])
    assert table_row(page, "half", "Test accuracy of the final epoch") == [
        "half", "4", "99.13%", f"{100 * found.std:.2f}", f"{100 * found.low:.2f} to {100 * found.high:.2f}",
        f"{100 * over_images.low:.2f} to {100 * over_images.high:.2f}",
    ]  # fmt: skip
    comparison = compare_to_baseline(scores["none"], {name: scores[name] for name in ("half", "some")})["half"]
    assert comparison.over_images
    on_these, on_others = (
        f"{100 * found.low:+.2f} to {100 * found.high:+.2f}"
        for found in (comparison.over_seeds, comparison.over_images)
    )
    row = difference_row(page, "half")
    assert row[:5] == ["half", "4", "+0.98", on_these, on_others]
    assert float(row[5]) == pytest.approx(comparison.over_images.p_value, rel=0.05)
    assert row[6:] == [f"{comparison.correlation:.2f}", f"{100 * comparison.smallest:.2f}"]
    assert f"- **half**: +0.98 points ({on_these} on these images, {on_others} on others), above none." in page
    assert re.search(
        r"- \*\*some\*\*: \+0.00 points .*, not distinguishable from none: 4 seeds resolve 0.\d+ points", page
    )
    assert "All are Bonferroni-corrected for 2 comparisons" in page
    assert "![Mean over seeds by epoch" in page
    assert set(figures) == {"curves.png", "differences.png"}
    assert "Of 10,000 test images, 1 are misclassified by all runs and 1 by at least half of them. By index" in page
    assert table_row(page, "7", "Test images that most runs") == ["7", "12 of 12"]
    assert table_row(page, "1000", "Test images that most runs") == ["1000", "3 of 12"]
    assert (
        "`python -m digits_jax.main --config=configs/bn_dropout.py --config.model.hidden_dropout=0.5 --config.seed=0`"
        in page
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"a": +2.0}, "**a** (+2.00 points, +1.90 to +2.10) is better than **base**."),
        (
            {"a": +1.0, "b": +2.0, "c": -3.0},
            "**b** (+2.00 points, +1.90 to +2.10) and **a** (+1.00 points, +0.90 to +1.10) are better than **base**. "
            "**c** (-3.00 points, -3.10 to -2.90) is worse than **base**.",
        ),
        ({"a": 0.05}, "Not distinguishable from **base** with 4 seeds: **a** (+0.05 points, -0.05 to +0.15)."),
        (
            {"a": -1.0, "b": 0.0},
            "**a** (-1.00 points, -1.10 to -0.90) is worse than **base**. "
            "Not distinguishable from **base** with 4 seeds: **b** (+0.00 points, -0.10 to +0.10).",
        ),
    ],
)
def test_the_answer_in_a_sentence(changes: dict[str, float], expected: str) -> None:
    def comparison(points: float) -> Comparison:
        return Comparison(Estimate(4, points / 100, 0.0, (points - 0.1) / 100, (points + 0.1) / 100), None, 0.5, 0.1)

    found = {name: comparison(points) for name, points in changes.items()}
    assert report_page.answer(found, scale_of("test/accuracy"), "base") == expected


def test_an_answer_on_these_images_only() -> None:
    over_seeds, over_images = Estimate(4, 0.01, 0.0, 0.009, 0.011), Estimate(4, 0.01, 0.0, -0.001, 0.021)
    found = {"a": Comparison(over_seeds, over_images, 0.5, 0.001)}
    assert report_page.answer(found, scale_of("test/accuracy"), "base") == (
        "On these images, if not on others, **a** (+1.00 points, +0.90 to +1.10) is better."
    )
    assert report_page.verdict("a", found["a"], scale_of("test/accuracy"), "base") == (
        "**a**: +1.00 points (+0.90 to +1.10 on these images, -0.10 to +2.10 on others), above base on "
        "these images only."
    )


def test_low_accuracies_are_compared_on_log_odds(results: list[dict[str, Any]]) -> None:
    for result in results:
        if result["variant"] == "half":
            accuracy = 0.5 + 0.1 * result["config"]["seed"]
            for row in (*result["epochs"], result["final"], result["best"]):
                row["test/accuracy"] = accuracy
            result["test_errors"] = list(range(round(10_000 * (1 - accuracy))))
    page, _ = report_page.build_page(create_study(results))
    study = create_study(results)
    compared = compare_to_baseline(
        study.scores(study.baseline, "test/accuracy"),
        {variant.name: study.scores(variant, "test/accuracy") for variant in study.others},
        log_odds=True,
    )
    mean = np.mean(
        [
            np.log(a / (1 - a)) - np.log(b / (1 - b))
            for a, b in zip((0.5, 0.6, 0.7, 0.8), ACCURACIES["none"], strict=True)
        ]
    )
    assert compared["half"].over_seeds.mean == pytest.approx(mean)
    assert page.split("\n\n")[1].startswith(f"**half** ({mean:+.2f} log-odds, ")
    assert "minus none | pairs | mean, log-odds |" in page
    assert "because an accuracy p is below 95%" in page


def test_held_out_images_are_compared_where_test_images_are_left_alone(results: list[dict[str, Any]]) -> None:
    for result in results:
        result["validation_errors"], result["scored"] = result.pop("test_errors"), {"validation": 10_000}
        for row in (*result["epochs"], result["final"], result["best"]):
            row["validation/accuracy"] = row.pop("test/accuracy", row.get("validation/accuracy"))
    page, _ = report_page.build_page(create_study(results))
    assert table_row(page, "half", "Validation accuracy of the final epoch")[2] == "99.13%"
    assert "Of 10,000 validation images, 1 are misclassified by all runs" in page
    assert "Test accuracy" not in page


def test_a_lower_loss_is_better_and_long_answers_name_three() -> None:
    found = {n: Comparison(Estimate(4, -0.1 * i, 0.0, -1.0, -0.01), None, 0.5, 0.1) for i, n in enumerate("abcde", 1)}
    text = report_page.answer(found, scale_of("test/loss"), "base")
    assert re.findall(r"\*\*(\w+)\*\*", text) == ["e", "d", "c", "base"]
    assert text.endswith("and 2 more are better than **base**.")


def test_augmented_test_images_have_a_section_too(results: list[dict[str, Any]]) -> None:
    for result in results:
        result["final"]["test_augmented/accuracy"] = result["final"]["test/accuracy"] - 0.1
    page, figures = report_page.build_page(create_study(results))
    assert table_row(page, "half", "Test augmented accuracy of the final epoch")[2] == "89.13%"
    assert "\n\nLog-odds of the test augmented accuracy: **half** (+0.10 log-odds, " in page
    assert set(figures) == {"curves.png", "differences.png", "differences-test_augmented-accuracy.png"}


def test_the_index_of_all_reports(results: list[dict[str, Any]], tmp_path: Path, parsed_flags: None) -> None:
    for sweep in ("dropout", "width"):
        asked = {"name": sweep, "question": f"Does {sweep} help? A note."}
        renamed = [{**result, "sweep": {**result["sweep"], **asked}} for result in results]
        add_results(tmp_path / "ablations" / sweep / "results.jsonl", renamed)
    with flagsaver.flagsaver(docs=str(tmp_path)):
        ablations.main(["ablations"])
    text = (tmp_path / "ablations" / "README.md").read_text()
    assert text.index("## [Does dropout help?](dropout/report.md)\n\n**half** (+0.98") < text.index("Does width help?")
    assert "12 runs on 12,000 training images" in text
    assert (tmp_path / "ablations" / "width" / "differences.png").exists()


def test_time_to_accuracy(results: list[dict[str, Any]]) -> None:
    page, _ = report_page.build_page(create_study(results), accuracy=0.9905)
    assert table_row(page, "none", "Time to 99.05% test accuracy") == ["none", "0 of 4", "-", "-"]
    assert table_row(page, "half", "Time to 99.05% test accuracy") == ["half", "3 of 4", "2", "4.0"]
    results[0]["cpu"] = "Another Processor"  # seconds do not compare
    page, _ = report_page.build_page(create_study(results), accuracy=0.9905)
    assert table_row(page, "half", "Time to 99.05% test accuracy") == ["half", "3 of 4", "2"]


def test_one_seed_says_nothing(results: list[dict[str, Any]]) -> None:
    page, _ = report_page.build_page(create_study([r for r in results if r["config"]["seed"] == 0]))
    assert "- **half**: 1 seed in common with none, at least 2 are needed to compare them." in page
    assert difference_row(page, "half")[3:] == ["-", "-", "-", "-", "-"]
    assert "nan" not in page


def test_a_baseline_alone(results: list[dict[str, Any]]) -> None:
    page, figures = report_page.build_page(create_study([r for r in results if r["variant"] == "none"]))
    assert "Differences" not in page
    assert set(figures) == {"curves.png"}


def test_a_loss_is_in_nats(results: list[dict[str, Any]]) -> None:
    page, _ = report_page.build_page(create_study(results), metrics=["test/loss"])
    assert table_row(page, "half", "Test loss of the final epoch")[2] == "0.0500 nats"
    assert scale_of("test/loss").difference_unit == " nats"


def test_an_unknown_metric(results: list[dict[str, Any]]) -> None:
    with pytest.raises(UserError, match=r"--metrics has 'test/acc': expected some of .*test/accuracy"):
        report_page.build_page(create_study(results), metrics=["test/acc"])


def test_the_html_page_needs_no_other_file(results: list[dict[str, Any]], tmp_path: Path) -> None:
    write_page(tmp_path / "page", *report_page.build_page(create_study(results)))
    html = (tmp_path / "page" / "report.html").read_text()
    sources = re.findall(r'src="(.{22})', html)
    assert sources == ["data:image/png;base64,"] * 2
    assert "//" not in html.replace("base64,//", "").split("data:image")[0]
    assert "<h1>Does dropout help?</h1>" in html
    assert {path.name for path in (tmp_path / "page").iterdir()} == {
        "report.md", "report.html", "curves.png", "differences.png",
    }  # fmt: skip


def test_pictures_are_in_the_html_page_only(results: list[dict[str, Any]], tmp_path: Path) -> None:
    images = np.zeros((10_000, 28, 28, 1), np.uint8)
    labels = np.full(10_000, 4, np.uint8)
    pictures = gallery(results, Arrays(images, labels, images, labels))
    write_page(tmp_path, *report_page.build_page(create_study(results)), appendix=pictures)
    html = (tmp_path / "report.html").read_text()
    assert "7: a 4<br>12 of 12" in html
    assert html.count("<figure>") == 24
    assert "figure" not in (tmp_path / "report.md").read_text()


def test_text_from_a_file_is_escaped(results: list[dict[str, Any]], tmp_path: Path) -> None:
    evil = "<script>a|b</script> [x](javascript:alert(1)) ![x](http://x/y.png) $\\nope$"
    for result in results:
        result["cpu"] = result["versions"]["jax"] = result["dataset"]["name"] = evil
        variants = {"none": {}, evil: {"model.name": evil}}
        result["sweep"] |= {"question": f"Is it? {evil}", "config": evil, "variants": variants}
        result["variant"] = result["variant"].replace("half", evil)
    text, plots = report_page.build_page(create_study([r for r in results if r["variant"] != "some"]))
    write_page(tmp_path, text, plots)
    html = (tmp_path / "report.html").read_text()
    assert html.count("&lt;script&gt;") > 10
    assert not re.search(r"<script|<a |src=.http|href", html)
    assert table_row(text, "none (baseline)", "Test accuracy of the final epoch")[1] == "4"


def _strings(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set().union(*map(_strings, value.values()))
    if isinstance(value, list):
        return set().union(*map(_strings, value))
    return {value} if isinstance(value, str) else set()


PAYLOADS = (
    "<script>alert(1)</script><img src=x onerror=alert(1)>\"><b a='",
    "|x|`y` *z* _u_ ~~v~~ [a](javascript:alert(1)) ![b](http://x/y.png) <http://x> &lt;i&gt; \\",
    "? ```\n\n# heading\n\n- item\n\n<div>",
    "? - item",
    "? 12. item",
    "? --- > quote",
    "? > quote",
    "? # heading",
)


def test_no_string_of_a_file_adds_an_element(results: list[dict[str, Any]], tmp_path: Path) -> None:
    few = [r for r in results if r["config"]["seed"] < 2]
    for result in few:
        result.update(git_revision="0f" * 20, devices=["a device"], selected_by="some score")
        result["sweep"]["variants"] = {name: {"model.name": "a model"} for name in ACCURACIES}
    written = json.dumps(few)
    texts = _strings(few)
    assert len(texts) > 12
    file = tmp_path / "results.jsonl"

    def elements(changed: str) -> list[tuple[str, list[tuple[str, str | None]]]]:
        file.unlink(missing_ok=True)
        add_results(file, json.loads(changed))
        return tags(to_html(report_page.build_page(create_study(read_results([file])))[0], {}))

    harmless, refused = {note: elements(written.replace("help?", f"help?{note}")) for note in ("", " A note.")}, 0
    for text in texts:
        for payload in PAYLOADS[: None if text == "Does dropout help?" else 2]:
            try:
                found = elements(written.replace(json.dumps(text), json.dumps(payload)))
            except UserError:
                refused += 1
            else:
                assert found == harmless[" A note." if payload.startswith("?") else ""], (text, payload)
    assert refused == 2 * 3  # the names of the sweep and of the data set, and the hash


def tags(page: str) -> list[tuple[str, list[tuple[str, str | None]]]]:
    """The elements of a page with their attributes; those of an image are its file only."""

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            found.append((tag, [(name, None if name == "alt" else value) for name, value in attributes]))

    found: list[tuple[str, list[tuple[str, str | None]]]] = []
    Parser().feed(page)
    return found


def test_a_page_allows_its_own_style_only(results: list[dict[str, Any]]) -> None:
    html = to_html(report_page.build_page(create_study(results))[0], {})
    policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', html)
    style = re.search(r"<style>(.*)</style>", html, re.DOTALL)
    assert policy
    assert style
    assert html.index("Content-Security-Policy") < html.index("<style>")
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy[1].startswith(f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:;")
    assert "style=" not in html  # the policy would not allow it
    assert '<td class="right">99.13%</td>' in html


@pytest.mark.usefixtures("parsed_flags")
def test_a_path_in_a_file_of_results_is_not_used(
    results: list[dict[str, Any]], tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    elsewhere = tmp_path / "elsewhere"
    for result in results:
        result["dataset"]["name"] = "optical_digits"
        result["config"]["dataset"] |= {
            "name": "optical_digits", "data_dir": str(elsewhere), "source_dir": None, "validation_examples": 0,
            "train_examples": 100,
        }  # fmt: skip
    add_results(tmp_path / "results.jsonl", results)
    report.main(["report", "results.jsonl"])
    assert (tmp_path / "runs/reports/dropout/report.html").exists()
    assert not elsewhere.exists()


def test_several_test_sets(results: list[dict[str, Any]]) -> None:
    for result in results:
        if result["variant"] == "half":
            result["dataset"] = {"name": "kmnist", "sha256": "1" * 64, "test_examples": 10_000}
        if result["variant"] == "some":  # of the same data set
            result["config"]["dataset"]["train_examples"] = 100
    page, _ = report_page.build_page(create_study(results))
    assert "3 variants on mnist or kmnist (100 or 12,000 training images)" in page
    assert "misclassify\n\nThe runs have different test images, so that the misclassified ones cannot be" in page
    assert difference_row(page, "half")[2] == "+0.98"
    page, _ = report_page.build_page(create_study([r for r in results if r["variant"] != "half"]))
    assert table_row(page, "7", "Test images that most runs") == ["7", "8 of 8"]


def test_runs_that_the_sweep_no_longer_asks_for_are_left_out(
    results: list[dict[str, Any]], write_results: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    write_results(results)
    sweep = {**results[0]["sweep"], "variants": {n: {"model.hidden_dropout": 0.5} for n in ("none", "half")}}
    folder = write_results([{**results[0], "sweep": {**sweep, "num_seeds": 3}}])
    page, _ = report_page.build_page(create_study(read_results([folder])))
    assert capsys.readouterr().err == (
        "warning: runs that the sweep dropout no longer asks for are left out: 'half' with seed 3, 'none' with seed 3, "
        "'some' with seed 0, 'some' with seed 1, 'some' with seed 2, 'some' with seed 3\n"
    )
    assert "6 runs of 2 variants" in page
    assert "All are Bonferroni-corrected for 1 comparison," in page
    assert "some" not in page
    assert len(load_runs(folder)) == 24  # they are kept


def test_runs_with_held_out_images(results: list[dict[str, Any]]) -> None:
    for result in results:
        rows = [{k.replace("test/", "validation/"): v for k, v in row.items()} for row in result["epochs"]]
        result |= {"epochs": rows, "final": {**rows[-1], "test/accuracy": 0.9}}
    page, plots = report_page.build_page(create_study(results))
    plots["curves.png"]()
    assert table_row(page, "half", "Time to 98.10% validation accuracy")[1] == "4 of 4"
    results[0]["epochs"] = make_result("none", 0, 0.9)["epochs"]
    with pytest.raises(UserError, match="the runs share no accuracy by epoch: expected dataset"):
        report_page.build_page(create_study(results))


def test_a_report_that_cannot_be_written(results: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(UserError, match=rf"^{tmp_path} cannot be written \(Is a directory; .*\): give another --page"):
        write_page(tmp_path, *report_page.build_page(create_study(results)))


def test_results_of_two_sweeps_or_none_are_refused(results: list[dict[str, Any]]) -> None:
    with pytest.raises(UserError, match="the results are of dropout, other: expected those of one sweep"):
        create_study([*results, make_result("none", 9, 0.9, sweep="other")])
    del results[0]["sweep"]
    with pytest.raises(UserError, match="the results are of runs of no sweep: expected those of one sweep"):
        create_study(results[:1])


def test_without_the_baseline_there_is_nothing_to_compare(results: list[dict[str, Any]]) -> None:
    with pytest.raises(UserError, match="no run of the baseline 'none' is finished"):
        create_study([r for r in results if r["variant"] != "none"])


def test_no_results_given() -> None:
    with pytest.raises(ConfigError, match=r"no results given; for example: python -m digits_jax.studies.report runs/"):
        report.main(["report"])


def test_reading_results(results: list[dict[str, Any]], write_results: Callable[..., Path]) -> None:
    folder = write_results(results)
    assert len(read_results([folder])) == 12
    assert len(read_results([folder, folder / "results.jsonl"])) == 12  # each run once
    (folder / "run").mkdir()
    (folder / "run/result.json").write_text(json.dumps(results[0]))
    assert len(read_results([folder])) == 12
    assert read_results([folder / "run"]) == [results[0]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"result.json cannot be read \("),
        ("5", r"result.json cannot be read \(its content is 5: expected fields and values\)"),
        ('"x"', r'result.json cannot be read \(its content is "x": expected fields and values\)'),
        ('{"final": {}}', r"result.json cannot be read \(config_hash is missing: expected text\)"),
    ],
)
def test_a_file_that_is_no_result(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_results([tmp_path])


def test_a_folder_without_results(tmp_path: Path) -> None:
    expected = r"holds no results: expected the results\.jsonl of a sweep, or runs with a result\.json"
    with pytest.raises(UserError, match=expected):
        read_results([tmp_path])
    with pytest.raises(UserError, match=r"nowhere cannot be read \(No such file"):
        read_results([tmp_path / "nowhere"])


def test_a_table_for_notebooks(results: list[dict[str, Any]], write_results: Callable[..., Path]) -> None:
    table = load_runs(write_results(results))
    assert len(table) == 24
    final = table[table.epoch == 2].groupby("variant")["test/accuracy"].mean()
    assert final["half"] == pytest.approx(np.mean(ACCURACIES["half"]))
    assert set(table.columns) >= {"sweep", "variant", "seed", "config_hash", "epoch", "model.hidden_dropout"}
