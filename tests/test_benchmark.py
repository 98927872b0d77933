"""The benchmark: its cases, its contestants, its arithmetic, its result files and page, and short runs."""

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from absl.testing import flagsaver
from flax import linen as nn

from digits_jax.apps import speed
from digits_jax.errors import ConfigError, UserError
from digits_jax.studies.benchmark import measure, page, programs, runtimes
from digits_jax.studies.benchmark.contestant import Contestant
from digits_jax.studies.benchmark.programs import parse_case

DOCS = Path(__file__).parents[1] / "docs"
RESULT = {
    "case": "vgg:64", "date": "2026-01-01", "batch_size": 64, "images": 64,
    "flops_per_image": 1e9, "machine_flops_per_second": 1e11, "peak_memory_bytes": 1e9,
    "seconds": {
        "digits_jax": [1.0, 2.0], "1. a remedy": [0.1, 0.1], "PyTorch eager": [4.0, 6.0],
        "PyTorch compiled": [2.0, 7.0], "Keras on JAX": [3.0, 3.0], "Keras on TensorFlow": [3.0, 4.0],
    },
    "failures": {"OpenVINO": "no *answer*"},
}  # fmt: skip
ENVIRONMENT = {"cpu": "CPU", "cores": 2, "jax": "0.1"}


def test_a_case_is_a_config_and_a_batch_size() -> None:
    case = parse_case("bn_dropout:256")
    assert (case.config.batch_size, case.config.model.batch_norm, case.work) == (256, "after", "training")
    assert case.num_images == 4096
    assert parse_case("bn_dropout:256", 600).num_images == 512
    assert parse_case("vgg:evaluation").num_images == 10_000
    assert parse_case("vgg:remedies").config.batch_size == 64
    assert parse_case("vgg:busy").config.batch_size == 64
    assert parse_case("vgg:seeds").config.num_seeds == 32


def test_a_pass_on_a_gpu_is_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert parse_case("vgg:64").num_images == 937 * 64
    names = programs.programs(parse_case("vgg:evaluation"))
    assert not any(name.startswith(("ONNX", "OpenVINO")) or "tcmalloc" in name for name in names)


def test_programs_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    found = programs.programs(parse_case("bn_dropout:64"))
    assert [name for name in found if page.library(name) is None] == [
        "matrix product", "digits_jax", "digits_jax, matmul", "digits_jax, deterministic", "digits_jax, bfloat16",
        "PyTorch graph channels_last, bfloat16",
    ]  # fmt: skip
    assert found["digits_jax, deterministic"].environment == {"XLA_FLAGS": "--xla_gpu_deterministic_ops=true"}
    assert {"digits_jax, lax", "digits_jax, winograd"} < programs.programs(parse_case("vgg:seeds")).keys()


def test_programs_in_bfloat16_are_compared_with_each_other() -> None:
    half = {"digits_jax, bfloat16": [0.5, 0.5], "PyTorch graph, bfloat16": [1.0, 1.5]}
    result = {**RESULT, "seconds": RESULT["seconds"] | half}
    assert page.ratios(result, "PyTorch graph, bfloat16") == [2.0, 3.0]
    assert page.fastest(result) == "Keras on JAX"


@pytest.mark.parametrize(
    "text",
    ["vgg", "vgg:0", "vgg:x", "vgg:-1", "nope:64", "../vgg:64", ":64", "linear:remedies", "vgg_augmented:remedies"],
)
def test_a_wrong_case(text: str) -> None:
    with pytest.raises(ConfigError, match=f"--cases={text}: "):
        parse_case(text)


def test_peers_of_a_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "tcmalloc", lambda: "libtcmalloc.so")
    found = programs.programs(parse_case("vgg:evaluation"))
    assert {page.library(name) for name in found} == {None, "PyTorch", "Keras", "ONNX Runtime", "OpenVINO"}
    assert found["PyTorch eager channels_last, tcmalloc"].environment["LD_PRELOAD"] == "libtcmalloc.so"
    assert found["Keras on TensorFlow"].environment == {"KERAS_BACKEND": "tensorflow"}
    assert [*programs.programs(parse_case("vgg:seeds"))] == ["matrix product", "digits_jax"]
    names = [*programs.programs(parse_case("vgg_augmented:64"))]
    assert names[:3] == ["matrix product", "digits_jax", "digits_jax, not augmented"]
    assert {page.library(name) for name in names[3:]} == {"PyTorch"}


def test_peers_that_are_not_installed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    find_spec, absent = importlib.util.find_spec, ("torch", "keras", "tensorflow", "openvino")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in absent else find_spec(name))
    monkeypatch.setattr(measure, "tcmalloc", lambda: None)
    case = parse_case("vgg:evaluation")
    measure.report_missing([case, parse_case("vgg:64")])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("warning: peers that need keras, openvino, tensorflow, torch are skipped: ./launch.sh")
    assert "apt-get install libtcmalloc-minimal4" in lines[1]
    assert {*measure.installed(programs.programs(case))} <= {"matrix product", "digits_jax", "ONNX Runtime"}


def test_ratios_are_taken_within_a_round() -> None:
    assert page.ratios(RESULT, "PyTorch eager") == [3.0, 4.0]
    assert page.ratios(RESULT, "digits_jax") == [1.0, 1.0]


def test_the_fastest_peer_of_all_libraries_counts() -> None:
    assert page.fastest(RESULT) == "Keras on JAX"
    assert page.fastest(RESULT, "PyTorch") == "PyTorch compiled"
    assert page.fastest({"seconds": {"digits_jax": [1.0]}}) is None
    table = page.results_table([RESULT])
    assert "| Keras on JAX (the fastest peer) | 21 |" in table
    assert "| PyTorch compiled (its fastest) | 14 |" in table
    assert "| Keras on TensorFlow | 18 |" in table
    assert "| OpenVINO: failed (no \\*answer\\*) |" in table


def test_a_column_for_each_processor() -> None:
    seeds = {"case": "vgg:seeds", "seconds": {"digits_jax": [4.0]}, "images": 64 * 32}
    gpu = {"vgg:64": RESULT, "vgg:seeds": {**RESULT, **seeds}}
    files = {"a": (ENVIRONMENT, {"vgg:64": RESULT}), "b": ({**ENVIRONMENT, "accelerator": "GPU"}, gpu)}
    table = page.summary_table(files.values())
    assert table.splitlines()[0] == f"| case | 2 cores of an CPU, {RESULT['date']} | GPU, {RESULT['date']} |"
    assert (
        table.splitlines()[2] == "| `vgg:64` | 2.25 (1.50 to 3.00), Keras on JAX | 2.25 (1.50 to 3.00), Keras on JAX |"
    )
    assert len(table.splitlines()) == 3  # none for `vgg:seeds`, which has no peers
    # 4 seconds for 32 seeds of a batch each, next to 1.5 for one.
    assert page.seeds_sentences(gpu) == "\n32 seeds of `vgg` in one program take 2.7 times as long as one.\n"


def test_the_chart_is_of_the_newest_file() -> None:
    dates = {"a": "2026-02-01", "b": "2026-03-01", "c": "2026-01-01"}
    files = {name: (ENVIRONMENT, {"vgg:remedies": {**RESULT, "date": day}}) for name, day in dates.items()}
    assert page.plotted(files) == "b"
    with pytest.raises(UserError, match="no file has the case vgg:remedies"):
        page.plotted({"a": (ENVIRONMENT, {"vgg:64": RESULT})})


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


def test_the_page_has_the_committed_results() -> None:
    files = page.read_benchmarks(DOCS)
    sections = page.sections(files)
    assert "| `vgg:64` | **digits_jax** | 1,892 | 33.82 | 90% |  | 0.61 |" in sections["results"]
    assert "|  | tutorial Flax | 302 | 211.94 | 14% | 6.47 (5.03 to 6.58) |  |" in sections["results"]
    assert "channels_last (the fastest peer) | 1,220 | 52.44 | 58% | 1.60 (1.13 to 1.63) |" in sections["results"]
    assert "### 2 cores of an AMD EPYC with AVX2\n\nMatrix products at 130 to 137 G" in sections["results"]
    (axes,) = page.plot_remedies(files["avx2"][1]["vgg:remedies"]).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[0] == "tutorial Flax"
    assert names[6] == "digits_jax"
    assert names[7:] == ["PyTorch eager channels_last"]


SCRIPTS = {
    "good": "for line in sys.stdin: print(0.5 * int(line), flush=True)",
    "raises": "print('noise', file=sys.stderr); raise SystemExit('no such thing')",
    "killed": "sys.stdin.readline(); print(0.1, flush=True); sys.stdin.readline(); os.kill(os.getpid(), 9)",
    "hangs": "time.sleep(60)",
}


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(300):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen within 30 seconds")


@pytest.fixture
def contestants() -> Iterator[dict[str, Contestant]]:
    command = [sys.executable, "-c"]
    found = {
        name: Contestant(
            name, [*command, f"import os, sys, time\n{script}"], {}, timeout=1.0 if name == "hangs" else 60
        )
        for name, script in SCRIPTS.items()
    }
    found["absent"] = Contestant("absent", ["/nowhere/python"], {}, timeout=1.0)
    yield found
    for contestant in found.values():
        contestant.close()


def test_contestants_that_fail(contestants: dict[str, Contestant], capsys: pytest.CaptureFixture[str]) -> None:
    times = speed.time_in_turns(contestants, rounds=2, seconds=1.0)
    assert times.pop("good") == [0.5, 0.5]  # per pass; two fill a second
    assert times == dict.fromkeys(("raises", "killed", "hangs", "absent"), [float("inf")] * 2)
    failures = {name: contestant.failure for name, contestant in contestants.items()}
    assert failures.pop("good") is None
    assert failures == {
        "raises": "exit code 1: no such thing", "killed": "exit code -9", "hangs": "no answer within 1 s",
        "absent": "[Errno 2] No such file or directory: '/nowhere/python'",
    }  # fmt: skip
    lines = [f"warning: {name} failed: {failure}" for name, failure in failures.items()]
    assert sorted(capsys.readouterr().err.splitlines()) == sorted(lines)


def test_a_contestant_is_stopped_between_its_turns(contestants: dict[str, Contestant]) -> None:
    contestant = contestants["good"]
    contestant(1)
    process = contestant._process
    assert process
    wait_until(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    contestant(1)
    contestant.close()
    assert not is_running(process.pid)


def test_contestants_that_begin_run_side_by_side() -> None:
    script = "import sys, time\nfor line in sys.stdin: time.sleep(1); print(time.time(), flush=True)"
    pair = [Contestant(name, [sys.executable, "-c", script], {}) for name in "ab"]
    for contestant in pair:
        contestant.begin(1)
    try:
        first, second = (contestant(1) for contestant in pair)
        assert abs(second - first) < 0.9  # one after the other, they would be a second apart
        assert pair[0](2) > first + 0.9  # not the same answer again
        assert [len(contestant.answers) for contestant in pair] == [2, 1]
    finally:
        for contestant in pair:
            contestant.close()


def test_the_busy_process_ends() -> None:
    pids = []

    def fail_beside_it() -> None:
        with measure.busy_process() as process:
            pids.append(process.pid)
            assert is_running(process.pid)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_beside_it()
    assert not is_running(pids[0])


@pytest.mark.slow
def test_nothing_outlives_a_killed_benchmark() -> None:
    code = (
        "import sys; from digits_jax.studies.benchmark import contestant, measure\n"
        f"one = contestant.Contestant('', [sys.executable, '-c', {'import sys' + chr(10) + SCRIPTS['good']!r}], {{}})\n"
        "one(1)\n"
        "with measure.busy_process() as busy: print(one._process.pid, busy.pid, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    with process:
        assert process.stdout
        pids = [*map(int, process.stdout.readline().split())]
        os.kill(process.pid, signal.SIGKILL)
    assert len(pids) == 2
    wait_until(lambda: not any(map(is_running, pids)))


@pytest.mark.slow
@pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called")  # OpenVINO does when it is imported
def test_the_runtimes_agree_with_the_model() -> None:
    case = parse_case("bn_dropout:evaluation", 100)
    case.config.model.update(widths=((4,), (4,)), hidden_width=8)
    case.config.execution.kernels = "lax"  # compiled in a fraction of the time
    dataset = case.dataset()
    experiment = speed.build_experiment(case.config, dataset)
    state = experiment.create_state(np.uint32(0))
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    expected = nn.softmax(experiment.model.apply(variables, dataset.arrays.test_images, train=False))
    passes: dict[str, Any] = {"onnxruntime": [runtimes.onnxruntime_pass(case.config, dataset)]}
    if importlib.util.find_spec("openvino"):
        passes["openvino"] = [runtimes.openvino_pass(case.config, dataset, hint=h) for h in ("latency", "throughput")]
    for run in [run for runs in passes.values() for run in runs]:
        np.testing.assert_allclose(run(), expected, atol=1e-6)


PEERS = [
    (name, work) for work in ("64", "evaluation") for name in programs.programs(parse_case(f"bn_dropout:{work}"))
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "work"), PEERS)
def test_each_program_runs(name: str, work: str) -> None:
    case = f"bn_dropout:{work}"
    program = programs.programs(parse_case(case))[name]
    for package in program.packages:
        if not importlib.util.find_spec(package):
            pytest.skip(f"{package} is not installed: ./launch.sh setup benchmark")
    command = [
        sys.executable,
        "-m",
        "digits_jax.studies.benchmark.contestant",
        f"bn_dropout:{work}",
        name,
        "--images=128",
    ]
    with contextlib.closing(Contestant(name, command, program.environment)) as contestant:
        assert contestant(1) > 0
        assert contestant(2) > 0
        assert contestant.failure is None


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "digits_jax.studies.benchmark", "--seconds=0.01", "--notorch_compile", *arguments]
    process = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert process.returncode == 0, process.stderr
    return process


@pytest.mark.slow
def test_a_short_run(tmp_path: Path, parsed_flags: None) -> None:
    output = tmp_path / "results.json"
    process = benchmark("--cases=linear:64", "--rounds=2", f"--output={output}")
    assert "linear:64" in process.stdout
    (result,) = json.loads(output.read_text())["results"]
    with flagsaver.flagsaver(output=str(output)):
        assert measure.read_output() == {"linear:64": result}
    assert len(result["seconds"]["digits_jax"]) == 2
    assert result["failures"] == {}
    # 784 x 10 products and sums forwards, and as many for the weights' gradient.
    assert result["flops_per_image"] == pytest.approx(4 * 784 * 10, rel=0.1)
    assert 1e8 < result["peak_memory_bytes"] < 2e9
    benchmark("--cases=linear:busy", "--rounds=1", "--images=640", f"--output={output}")
    assert [result["case"] for result in json.loads(output.read_text())["results"]] == ["linear:64", "linear:busy"]


@pytest.mark.slow
def test_the_command_for_a_gpu(tmp_path: Path) -> None:
    (named,) = re.findall(r"--cases=(\S+)", (DOCS / "gpu.md").read_text())
    cases = [case for case in named.split(",") if case != "bn_dropout:1024"]  # as bn_dropout:64
    (tmp_path / "benchmarks").mkdir()
    output = tmp_path / "benchmarks/gpu.json"
    benchmark(f"--cases={','.join(cases)}", "--rounds=1", "--images=64", f"--output={output}")
    _, results = page.read_benchmark(output, "vgg:seeds")
    assert [*results] == cases
    assert results["vgg:seeds"]["images"] == 32 * 64
    assert "32 seeds of `vgg` in one program take" in page.seeds_sentences(results)
