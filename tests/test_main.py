"""The program as a person starts it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import orbax.checkpoint as ocp
import pytest

ROOT = Path(__file__).parents[1]


def start(*arguments: str, module: str = "digits_jax.main", **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=180)
    return process.returncode, out, err


def small_run(data_dir: Path, workdir: Path) -> list[str]:
    """The README's command on a small data set."""
    return [
        "--config=configs/bn_dropout.py:smoke",
        "--config.dataset.name=optical_digits",
        f"--config.dataset.data_dir={data_dir}",
        f"--workdir={workdir}",
    ]


def test_a_full_run_never_loads_tensorflow(tmp_path: Path) -> None:
    # A tensorflow that fails loudly when imported, wherever that happens; preparing the data is part of the run.
    fake = tmp_path / "site" / "tensorflow"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text("raise AssertionError('tensorflow was imported')")
    command = ["--config=configs/linear.py:smoke", *small_run(tmp_path / "data", tmp_path / "run")[1:]]
    code, out, err = finish(start(*command, PYTHONPATH=str(tmp_path / "site")))
    assert code == 0, err
    assert "best on the test set" in out
    assert err.startswith("preparing optical_digits in ")
    assert err.count("\n") == 1  # no library's log, and no tensorflow
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["--config=configs/bn_dropout.py", "--config.model.hiden_dropout=0.1"],
         "unknown config field in --config.model.hiden_dropout=0.1: did you mean 'hidden_dropout'?", 2),
        (["--config=configs/vgg.py", "--config.dataset.source_dir=/nowhere", "--config.dataset.data_dir=/no"],
         "config.dataset.source_dir is '/nowhere': no such folder", 1),
        (["--config=configs/vgg.py", "--config.epochs=1,2"],
         "config.epochs is (1, 2): expected as many as learning_rates, which is (0.01, 0.1, 0.01)", 2),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(arguments: list[str], message: str, code: int) -> None:
    returned, out, err = finish(start(*arguments))
    assert (returned, out) == (code, "")
    assert err == f"error: {message}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/nope.py"], "config file 'configs/nope.py' not found: expected the path of one, or"),
        (["--config=nope"], "config file 'nope' not found: expected the path of one, or one of best, bn_dropout"),
        (["--config", "nope"], "config file 'nope' not found"),
        (["--config=configs"], "config file 'configs' not found"),
        (["--config=configs/vgg.py:fast"], "unknown config argument 'fast': expected one of ['as_logged', "),
        (["--config=fast.py:foo"], "unknown config argument 'foo': expected one of ['sprint', 'as_logged', 'smoke'] "),
        (["--config=configs/vgg.py", "--config.sede=1"], "unknown config field in --config.sede=1: did you mean 'see"),
        (["--config=configs/vgg.py", "--config.zzz=1"], "unknown config field in --config.zzz=1"),
        (["--config=configs/vgg.py", "--config.model.x.y=1"], "unknown config field in --config.model.x.y=1"),
        (["--config=configs/vgg.py", "--config.seed=1.5"], "flag --config.seed=1.5: invalid literal for int()"),
        (["--config=configs/vgg.py", "--config.model.hidden_dropout=a"], "flag --config.model.hidden_dropout=a: could"),
        (["--config=configs/vgg.py", "--config.model=3"], "config.model has fields of its own: did you mean --config."),
        (["--config=fast", "--config.optimizer=adam"],
         "config.optimizer has fields of its own: did you mean --config.optimizer.name=adam?"),
        (["--config=fast", "--config.optimizer.name.momentum=0.5"],
         "unknown config field in --config.optimizer.name.momentum=0.5: config.optimizer.name has no fields"),
        (["--config=fast", "--config.seed.x=1"], "unknown config field in --config.seed.x=1: config.seed has no"),
        (["--config=fast", "--config.optimizer.b1=0.5"],
         "config.optimizer.b1 is 0.5: expected None: nesterov takes momentum, nesterov, weight_decay"),
        (["--config=fast", "--config.metrics=gradient_norm,norm"],
         "config.metrics is ('gradient_norm', 'norm'): expected none or several of gradient_norm, "),
        (["--config=configs/vgg.py", "--config.epochs=[1,"], "flag --config.epochs=[1,:"),
        (["--config=configs/vgg.py", "--config.dataset.train_examples=None", "--config.model.mean", "None",
          "--config.execution.kernels=lax", "--config.execution.kernels=None"],
         "config.execution.kernels is None: expected one of "),
        (["--config=configs/vgg.py", "--config.model=None"], "config.model is None: expected a value for one of its"),
        (["--config=configs/vgg.py", "--config.seed"], "Missing value for flag --config.seed"),
        (["--config.seed=1"], "a field is given but no config: add --config=bn_dropout"),
        (["--config=configs/vgg.py", "--wrokdir=x"], "Unknown command line flag 'wrokdir'"),
        (["--config=configs/vgg.py", "workdir"], "unexpected argument 'workdir': options are written --name=value"),
        ([], "--config is missing; for example --config=bn_dropout"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_one_line(arguments: list[str], message: str) -> None:
    # One process each, but without importing JAX: main answers flags before that.
    returned, out, err = finish(start(*arguments))
    assert returned == 2
    assert out == ""
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("undefined_name", "NameError: name 'undefined_name' is not defined"),
        ("config.bach_size = 32", "unknown config field 'bach_size': did you mean 'batch_size'?"),
        (
            "config.model.dropout = 0.1",
            "unknown config field 'dropout': FIELDS in digits_jax/config.py declares them",
        ),
        ("config.augment.update(rotatoin=1.0)", "unknown config field 'rotatoin': did you mean 'rotation'?"),
        ("config.model.widths = 0.5", "config field 'widths' is 0.5, a value of type float: expected tuple"),
        ("config.model = 3", "config field 'model' is 3, a value of type int: expected ConfigDict"),
    ],
)
def test_an_error_inside_a_config_file_names_the_line(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text(
        f"from digits_jax.config import experiment\n\n\n@experiment()\ndef get_config(config):\n    {line}\n"
    )
    returned, _, err = finish(start(f"--config={path}"))
    assert returned == 2
    assert err == f"error: {path}, line 6: {message}\n"


@pytest.mark.slow
def test_a_disk_that_is_full(data_dir: Path, tmp_path: Path) -> None:
    """No file may be larger than 1 MB: small ones are written, the checkpoint's 1.2 MB of parameters are not."""
    run = small_run(data_dir, tmp_path / "run")
    assert finish(start(*run[:-1], f"--workdir={tmp_path / 'first'}"))[0] == 0  # prepares the data, which are larger
    process = subprocess.Popen(
        ["bash", "-c", 'ulimit -f 1000 && exec "$@"', "bash", sys.executable, "-m", "digits_jax.main", *run],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    code, _, err = finish(process)
    assert code == 1
    # TensorStore's threads may print as well.
    assert "error: the checkpoint of step 0 is not saved: " in err
    assert re.search(r"cannot be written \(File too large; \d\.\d MB are needed, [\d.]+ MB are free\); earlier", err)
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []
    assert finish(start(*run))[0] == 0


@pytest.mark.parametrize("module", ["digits_jax.main", "digits_jax.studies.sweep"])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_jax_is_imported_ends_with_the_code_of_an_interrupted_run(
    tmp_path: Path, module: str, signum: signal.Signals
) -> None:
    (tmp_path / "jax.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    argument = "--config=vgg" if module == "digits_jax.main" else "--sweep=hidden_dropout"
    process = start(argument, module=module, PYTHONPATH=str(tmp_path))
    assert process.stdout
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signum)
    assert finish(process) == (75, "", "")


SCRIPT = """
import sys
from digits_jax import cli
NAME = cli.DEFINE_path("name", None, "a folder")
def main(argv):
    {}
cli.run(main)
"""


def run_script(body: str, *arguments: str, shell: str = "", **environment: str) -> tuple[int, str, str]:
    """Runs a command with this body, and `shell` after it; returns its exit code, standard output and error."""
    words = [sys.executable, "-c", SCRIPT.format(body), *arguments]
    found = subprocess.run(
        ["bash", "-c", f'"$@" {shell}; exit ${{PIPESTATUS[0]}}', "bash", *words],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, timeout=60,
    )  # fmt: skip
    return found.returncode, found.stdout.decode(), found.stderr.decode()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("open('/no/file')", (1, "", "error: /no/file cannot be used (No such file or directory)\n")),
        ("open('/', 'w')", (1, "", "error: / cannot be used (Is a directory)\n")),
        ("print(NAME.value)", (0, "/home/me/x\n", "")),
    ],
)
def test_one_line_and_an_exit_code(body: str, expected: tuple[int, str, str]) -> None:
    assert run_script(body, "--name=~/x", HOME="/home/me") == expected


def test_paths_in_buckets_are_left_alone_and_no_home_is_one_line() -> None:
    assert run_script("print(NAME.value)", "--name=gs://bucket/a") == (0, "gs://bucket/a\n", "")
    code, _, err = run_script("import pathlib; pathlib.Path('~nobody-has-this-name').expanduser()")
    assert (code, err) == (1, "error: the home directory is unknown: set HOME\n")


@pytest.mark.parametrize("prints", ["print('x' * 99999)", "cli.console.print('x' * 99999)"])
def test_a_closed_or_full_standard_output(prints: str) -> None:
    slowly = f"import time; time.sleep(0.2); {prints}"
    code, _, err = run_script(slowly, shell="| true")
    assert (code, err) == (141 if prints.startswith("print") else 0, "")  # what has no more to print ends as usual
    code, _, err = run_script(prints, shell="> /dev/full")
    assert (code, err) == (1, "error: standard output or a connection cannot be used (No space left on device)\n")


def test_an_ascii_terminal_gets_question_marks() -> None:
    ascii_locale = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    assert run_script("print('\\u00e9'); cli.console.print('\\u00e9')", **ascii_locale) == (0, "?\n?\n", "")


@pytest.mark.slow
def test_a_platform_that_is_not_here_is_one_line(tmp_path: Path) -> None:
    code, out, err = finish(start("--config=vgg", f"--workdir={tmp_path}", JAX_PLATFORMS="abacus"))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("error: JAX_PLATFORMS is 'abacus' (")


@pytest.mark.slow
def test_a_run_whose_output_is_closed_is_saved(data_dir: Path, tmp_path: Path) -> None:
    with start(*longer_run(data_dir, tmp_path)) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline().startswith("bn_dropout on optical_digits")
        process.stdout.close()  # as `| head -1` does
        assert process.wait(timeout=180) == 141
        assert process.stderr.read() == ""
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["0"]
    assert not (tmp_path / "result.json").exists()


def longer_run(data_dir: Path, workdir: Path) -> list[str]:
    """A few hundred steps with dropout and batch normalisation."""
    return [
        "--config=configs/bn_dropout.py",
        *small_run(data_dir, workdir)[1:],
        "--config.learning_rates=0.01,0.1",
        "--config.epochs=8,8",
        "--config.execution.steps_per_call=2",
    ]


@pytest.fixture(scope="module")
def undisturbed(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("undisturbed")
    code, _, err = finish(start(*longer_run(data_dir, workdir)))
    assert code == 0, err
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_stopped_by_a_signal_and_the_same_command_again(
    data_dir: Path, undisturbed: Path, tmp_path: Path, signum: signal.Signals, exit_code: int
) -> None:
    process = start(*longer_run(data_dir, tmp_path / "b"))
    metrics = tmp_path / "b" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.4)
    process.send_signal(signum)
    code, out, err = finish(process)
    assert code == exit_code, err
    assert "python -m digits_jax.main --config=configs/bn_dropout.py" in out
    steps = sorted(int(path.name) for path in (tmp_path / "b" / "checkpoints").iterdir())
    assert steps[-1] % 23 != 0, "the signal was meant to come in mid-epoch"
    code, _, err = finish(start(*longer_run(data_dir, tmp_path / "b")))
    assert code == 0, err
    folders = (undisturbed, tmp_path / "b")
    rows = [(folder / "metrics.jsonl").read_text().splitlines() for folder in folders]
    parsed = [[{k: v for k, v in json.loads(row).items() if k != "train/seconds"} for row in lines] for lines in rows]
    assert len(parsed[0]) == 16
    assert parsed[0] == parsed[1]
    with ocp.StandardCheckpointer() as checkpointer:
        states = [checkpointer.restore(folder / "checkpoints" / "368" / "arrays") for folder in folders]
    assert jax.tree.all(jax.tree.map(lambda x, y: x.tobytes() == y.tobytes(), *states))
