"""The code that computes a run: what counts, what other code meets, and the user's files that register functions."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from absl.testing import flagsaver
from ml_collections import ConfigDict

from digits_jax import api, cli, load_model, models, parallel
from digits_jax import train_loop as train
from digits_jax.config import load_config
from digits_jax.data import Dataset
from digits_jax.errors import ConfigError, UserError
from digits_jax.runs import Interrupted, code, ensemble, environment
from digits_jax.runs.workdir import Workdir, describe_code_and_data, describe_run, find_workdir
from digits_jax.storage import read_facts
from digits_jax.studies.results import add_results, read_results
from tests.conftest import ROOT, StopAfterAnEpoch, forget_the_loss, new_small_config
from tests.test_report import make_result
from tests.test_sweep import create_tasks
from tests.test_sweep import finish as finish_sweep

PROGRAM = '''
"""What it is for."""

def f(x, *, text="# no comment"):
    """Doubles x."""
    # as it says
    if x:
        return f"{x + x} {text}"
    return 0
'''


@pytest.mark.parametrize(
    ("old", "new", "is_same"),
    [
        ("Doubles x.", "Returns twice x.", True),
        ('    """Doubles x."""\n', "", True),
        ("What it is for.", "Whatever.\n\nIn two paragraphs.", True),
        ("    # as it says\n", "\n\n", True),
        ("return 0", "return 0  # else", True),
        ("        return f", "      return f", True),
        ("x, *, text", "x,  *,\n    text", True),
        ("return 0", "return 1", False),
        ("    return 0", "        return 0", False),
        ("# no comment", "# a comment", False),
        ("{x + x} ", "{x + x}  ", False),
        ("{x + x}", "{x * x}", False),
        ("return 0", "return '0'", False),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(old: str, new: str, is_same: bool) -> None:
    assert old in PROGRAM
    assert (code.hash_program(PROGRAM) == code.hash_program(PROGRAM.replace(old, new))) == is_same


def test_the_files_that_compute_a_run(small_config: ConfigDict) -> None:
    files = code.describe_code(small_config)
    for name in ("models", "train_loop", "train_step", "ops/conv", "parallel/mesh"):
        assert f"digits_jax/{name}.py" in files
    assert not [name for name in files if "apps" in name or "studies" in name or "runs" in name or "tests" in name]
    assert not code.registering_files(small_config)


@pytest.fixture
def edit(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has this process run with the package's code as if files were edited, in the given way."""
    today = code._package_code()

    def edit(digest: str, *names: str) -> None:
        edited = dict.fromkeys(names or ("digits_jax/models.py",), digest * 64)
        monkeypatch.setattr(code, "_package_code", lambda: {**today, **edited} if digest else today)

    return edit


@pytest.fixture(scope="module")
def finished(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the finished run `run`, to be left as it is."""
    folder = tmp_path_factory.mktemp("finished")
    train.train_and_evaluate(new_small_config(data_dir), folder / "run")
    return folder


@pytest.fixture
def runs(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "runs")


def read(folder: Path, name: str = "run.json") -> dict[str, Any]:
    return json.loads((folder / name).read_text())


def test_a_run_records_its_code(runs: Path, small_config: ConfigDict) -> None:
    files, one = code.describe_code(small_config), code.code_hash(code.describe_code(small_config))
    run = read(runs / "run")
    assert run["code"] == files
    assert run["code_hash"] == read(runs / "run", "result.json")["code_hash"] == one
    assert read_facts(runs / "run/checkpoints/14")["code_hash"] == one


def test_other_code_meets_no_finished_run(
    runs: Path, small_config: ConfigDict, edit: Callable[..., None], capsys: pytest.CaptureFixture
) -> None:
    edit("b")
    message = (
        f"^{runs}/run was trained by other code \\(digits_jax/models.py differs\\): --fresh trains anew beside it, "
        "--accept_code continues it and records the change$"
    )
    before = {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}
    for _ in range(2):
        with pytest.raises(UserError, match=message):
            train.train_and_evaluate(small_config, runs / "run")
    assert {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()} == before
    train.train_and_evaluate(small_config, runs / "run", code="fresh")
    assert read(runs / "run-2")["code"]["digits_jax/models.py"] == "b" * 64
    capsys.readouterr()
    for options in ({}, {"code": "fresh"}):
        train.train_and_evaluate(small_config, runs / "run", **options)
        assert f"seed 0 in {runs}/run-2; finished, nothing is left to train" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before
    edit("c", *(f"digits_jax/{name}.py" for name in ("models", "losses", "train", "metrics")))
    with pytest.raises(UserError, match=r"run-2 was .* \(digits_jax/losses.py, .*, digits_jax/models.py and 1 more"):
        train.train_and_evaluate(small_config, runs / "run")
    edit("")
    train.train_and_evaluate(small_config, runs / "run")
    assert f"seed 0 in {runs}/run; finished" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="code is 'no': expected 'check', 'fresh' or 'accept'"):
        train.train_and_evaluate(small_config, runs / "run", code="no")


def test_other_code_resumes_a_run_only_where_it_is_accepted(
    small_config: ConfigDict, tmp_path: Path, edit: Callable[..., None], capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(Interrupted):
        train.train_and_evaluate(small_config, tmp_path / "run", writers=[StopAfterAnEpoch()])
    edit("b")
    with pytest.raises(UserError, match=r"run was trained by other code \(digits_jax/models.py differs\): --fresh"):
        train.train_and_evaluate(small_config, tmp_path / "run")
    assert train.train_and_evaluate(small_config, tmp_path / "run", code="accept")[-1]["epoch"] == 2
    assert capsys.readouterr().err == (
        "warning: digits_jax/models.py differs: from here on, the run is trained by other code\n"
    )
    run, today = read(tmp_path / "run"), code.code_hash(code.describe_code(small_config))
    assert [part["code"]["digits_jax/models.py"] for part in run["resumed_on"]] == ["b" * 64]
    assert run["code"]["digits_jax/models.py"] != "b" * 64
    hashes = [read_facts(tmp_path / f"run/checkpoints/{step}")["code_hash"] for step in (7, 14)]
    assert hashes == [run["code_hash"], today]
    assert read(tmp_path / "run", "result.json")["code_hash"] == today
    train.train_and_evaluate(small_config, tmp_path / "run")  # as it was accepted
    edit("")
    with pytest.raises(UserError, match="was trained by other code"):
        train.train_and_evaluate(small_config, tmp_path / "run")


def forget_code(folder: Path) -> None:
    """Leaves what an earlier version would have recorded."""
    for file in folder.rglob("*.json"):
        if file.name in ("run.json", "result.json"):
            content = json.loads(file.read_text())
            for name in ("code", "code_hash", "checksum"):
                content.pop(name, None)
            file.write_text(json.dumps(content))


def test_a_run_that_recorded_no_code_is_resumed_and_records_it(
    runs: Path, small_config: ConfigDict, edit: Callable[..., None], capsys: pytest.CaptureFixture
) -> None:
    forget_code(runs)
    recorded = (runs / "run/run.json").read_text()
    edit("b")
    train.train_and_evaluate(small_config, runs / "run")
    load_model(runs / "run")
    assert capsys.readouterr().err == ""
    assert (runs / "run/run.json").read_text() == recorded
    (runs / "run/result.json").unlink()  # as one that has not been finished
    train.train_and_evaluate(small_config, runs / "run")
    assert capsys.readouterr().err == (
        "warning: the code that the run was trained by so far was not recorded; it is now\n"
    )
    run = read(runs / "run")
    assert "code" not in run
    assert run["resumed_on"][-1]["code"] == code.describe_code(small_config)
    edit("c")
    with pytest.raises(UserError, match="run was trained by other code"):
        train.train_and_evaluate(small_config, runs / "run")


def test_where_the_run_of_todays_code_is(
    runs: Path, small_config: ConfigDict, small_dataset: Dataset, edit: Callable[..., None]
) -> None:
    def find(name: str = "run", **options: bool) -> str:
        path = find_workdir(runs / name, config, small_dataset, **options)
        return str(Path(path).relative_to(runs))

    config = train.resolve(small_config, small_dataset)
    assert (find(), find(fresh=True)) == ("run", "run")
    edit("b")
    assert (find(), find(fresh=True)) == ("run", "run-2")
    shutil.copytree(runs / "run", runs / "run-2")
    assert (find(), find(fresh=True)) == ("run-2", "run-3")  # of the same other code
    forget_code(runs / "run")
    assert (find(), find(fresh=True)) == ("run", "run-3")  # of unknown code
    shutil.move(runs / "run-2", runs / "run-3")
    change = read(runs / "run-3")
    change["config"]["batch_size"] = 8
    shutil.copytree(runs / "run-3", runs / "run-2")
    (runs / "run-2/run.json").write_text(json.dumps(change))
    assert (find(), find(fresh=True)) == ("run", "run-4")  # another config's is none of this run's
    edit("")
    assert (find(), find(fresh=True)) == ("run-3", "run-3")
    assert find("new", fresh=True) == "new"
    shutil.copytree(runs / "run-3", runs / "many/seed0")
    assert find("many/seed1", fresh=True) == "many/seed1"
    edit("b")
    assert find("many/seed1", fresh=True) == "many-2/seed1"  # beside runs of one code only: they are an ensemble


@pytest.mark.slow
def test_seeds_are_trained_anew_in_a_folder_of_their_own(
    runs: Path, small_config: ConfigDict, edit: Callable[..., None]
) -> None:
    def train_both(**options: Any) -> None:
        train.train_seeds(small_config, (0, 1), lambda config: f"{runs}/many/seed{config.seed}", **options)

    shutil.copytree(runs / "run", runs / "many/seed0")
    edit("b")
    with pytest.raises(UserError, match="many/seed0 was trained by other code"):
        train_both()
    train_both(code="fresh")
    assert sorted(path.name for path in runs.glob("many*/*")) == ["seed0", "seed0", "seed1"]
    train_both()
    assert len(ensemble.load(runs / "many-2").members) == 2


def test_loading_a_model_of_other_code_warns(
    runs: Path, edit: Callable[..., None], capsys: pytest.CaptureFixture
) -> None:
    load_model(runs / "run")
    assert capsys.readouterr().err == ""
    edit("b")
    load_model(runs / "run")
    assert capsys.readouterr().err == (
        f"warning: {runs}/run was trained by other code (digits_jax/models.py differs): its predictions may differ\n"
    )


def test_processes_of_one_run_have_one_code(
    small_config: ConfigDict, small_dataset: Dataset, edit: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = train.resolve(small_config, small_dataset)
    theirs = describe_code_and_data(config, small_dataset)
    edit("b")
    firsts = parallel.distributed.traverse_util.flatten_dict(theirs, sep=".")
    monkeypatch.setattr("digits_jax.parallel.distributed.from_first", lambda arrays, ours: (arrays, firsts))
    with pytest.raises(UserError, match=r"^it has code.digits_jax/models.py = 'bbb.*', and process 0 has "):
        parallel.check_same(describe_code_and_data(config, small_dataset))


def test_the_flags_contradict_each_other(parsed_flags: None) -> None:
    cli_flags = flagsaver.flagsaver(fresh=True, accept_code=True)
    with cli_flags, pytest.raises(ConfigError, match="--fresh and --accept_code are given: expected one of them"):
        cli.code_policy()


def statuses(file: str, folder: Path, **options: Any) -> list[str]:
    return [task.status for task in create_tasks(file, folder, **options)[1]]


def test_a_sweep_reuses_no_result_of_other_code(
    write_sweep: Callable[..., str], tmp_path: Path, edit: Callable[..., None]
) -> None:
    file = write_sweep(num_seeds="1", variants='"low": SMALL')
    loaded, (task,) = create_tasks(file, tmp_path)
    described = describe_run(task.run.config, task.dataset)
    result = make_result("low", 0, 0.9) | described | {"sweep": loaded._asdict(), "test_errors": [7]}
    add_results(task.results_file, [result])
    assert statuses(file, tmp_path) == ["done"]
    run_file = tmp_path / "runs/elsewhere" / task.run.hash / "run.json"
    run_file.parent.mkdir(parents=True)
    run_file.write_text(json.dumps(described | {"code": code.describe_code(task.run.config)}))
    edit("b")
    message = (
        r"^the result of variant 'low' with seed 0 is of other code \(digits_jax/models.py differs\): --fresh trains "
        "anew, --accept_code reuses it$"
    )
    with pytest.raises(UserError, match=message):
        create_tasks(file, tmp_path)
    assert statuses(file, tmp_path, code="accept") == ["done"]
    assert statuses(file, tmp_path, code="fresh") == ["waiting"]
    run_file.unlink()
    with pytest.raises(UserError, match=r"is of other code \(its code_hash is \w{8}..., today's is \w{8}...\): --"):
        create_tasks(file, tmp_path)
    del result["code_hash"]  # as those of earlier versions, which are committed
    add_results(task.results_file, [result])
    assert statuses(file, tmp_path) == ["done"]
    assert statuses(file, tmp_path, code="fresh") == ["waiting"]


@pytest.mark.slow
def test_a_sweep_trains_anew(write_sweep: Callable[..., str], tmp_path: Path, edit: Callable[..., None]) -> None:
    file = write_sweep(num_seeds="1", variants='"low": SMALL')
    finish_sweep(file, tmp_path)
    edit("b")
    assert finish_sweep(file, tmp_path, code="fresh") == ["waiting"]
    assert finish_sweep(file, tmp_path) == ["done"]
    (result,) = read_results([tmp_path / "results"])
    (task,) = create_tasks(file, tmp_path)[1]
    assert result["code_hash"] == code.code_hash(code.describe_code(task.run.config))
    shutil.rmtree(tmp_path / "results")
    assert finish_sweep(file, tmp_path) == ["reused"]  # of both runs, that of today's code
    assert read_results([tmp_path / "results"]) == [result]


def test_changes_since_the_commit_are_kept(
    small_config: ConfigDict, small_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = train.resolve(small_config, small_dataset)
    for name, changes in (("clean", ""), ("short", "+ a line\n"), ("long", "+ a line\n" * 20_000)):
        monkeypatch.setattr(environment, "_git", lambda *arguments, changes=changes: changes)
        folder = Workdir(tmp_path / name)
        folder.open(config, small_dataset)
        folder.close()
    assert not (tmp_path / "clean/changes.diff").exists()
    assert (tmp_path / "short/changes.diff").read_text() == "+ a line\n"
    kept = (tmp_path / "long/changes.diff").read_text()
    assert len(kept) < 101_000
    assert kept.endswith("(cut: 80,000 more characters)\n")


MIXER = '''
"""A model of the user's own."""

from digits_jax.config import experiment
from digits_jax.models import MODELS, Linear
from my.layers import changed

print("executed")


def mixer(num_classes, *, mean, std):
    return changed(Linear(num_classes, mean, std))


TABLE["mixer"] = mixer


@experiment()
def get_config(config):
    config.dataset.name = "optical_digits"
    config.dataset.train_examples = 64
    config.model.name = "mixer"
    config.learning_rates, config.epochs = (0.1,), (1,)
'''.replace("TABLE[", "MODELS[")  # as this file registers nothing
LAYERS = "def changed(model):\n    return model\n"


def forget_the_project() -> None:
    models.MODELS.pop("mixer", None)
    models.MODELS.files.pop("mixer", None)
    for name in ("my", "my.layers"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def trained_project(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """A project whose config file registers a model, with a run of it, to be left as it is."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "my").mkdir()
    (folder / "my/mixer.py").write_text(MIXER)
    (folder / "my/layers.py").write_text(LAYERS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.setenv("TFDS_DATA_DIR", str(data_dir))
        train.train_and_evaluate(load_config("my/mixer.py"), "runs/mixer")
    forget_the_project()
    return folder


@pytest.fixture
def project(trained_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> Iterator[Path]:
    """A copy of the project, as a process finds it that has loaded none of it; the current directory."""
    folder = shutil.copytree(trained_project, tmp_path / "project")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    yield folder
    forget_the_project()


def test_the_users_files_count(project: Path, capsys: pytest.CaptureFixture) -> None:
    run = read(project / "runs/mixer")
    assert {"my/mixer.py", "my/layers.py"} < set(run["code"])
    assert not [name for name in run["code"] if not name.startswith(("digits_jax/", "my/"))]
    assert run["registered_by"] == {"MODELS['mixer']": "my/mixer.py"}
    capsys.readouterr()
    load_model("runs/mixer")
    assert capsys.readouterr() == ("executed\n", "")
    load_model("runs/mixer")
    assert capsys.readouterr() == ("", "")  # it is registered
    forget_the_project()
    (project / "my/layers.py").write_text(LAYERS.replace("model\n", "model.clone()\n"))
    load_model("runs/mixer")
    err = "warning: runs/mixer was trained by other code (my/layers.py differs): its predictions may differ\n"
    assert capsys.readouterr().err == err
    load_model("runs/mixer")
    assert capsys.readouterr().err == ""  # it is said once
    assert load_config("my/mixer.py").model.name == "mixer"
    with pytest.raises(UserError, match=r"^runs/mixer was trained by other code \(my/layers.py differs\): --fresh"):
        train.train_and_evaluate(load_config("my/mixer.py"), "runs/mixer")


@pytest.mark.parametrize(
    "function",
    ["functools.partial(Linear, dtype='float32')", "Linear", 'type("Factory", (), {"__new__": Linear})'],
)
def test_a_function_of_another_file_counts_by_the_file_that_registered_it(
    project: Path, function: str, capsys: pytest.CaptureFixture
) -> None:
    text = MIXER.replace('MODELS["mixer"] = mixer', f"import functools\nMODELS['mixer'] = {function}")
    (project / "my/mixer.py").write_text(text)
    config = load_config("my/mixer.py")
    assert code.registering_files(config) == {"MODELS['mixer']": "my/mixer.py"}
    assert "my/mixer.py" in code.describe_code(config)


def test_an_experiment_without_functions_of_its_own_does_not_count(project: Path) -> None:
    (project / "my/plain.py").write_text(MIXER.replace('MODELS["mixer"] = mixer', "").replace('"mixer"', '"linear"'))
    assert "my/plain.py" not in code.describe_code(load_config("my/plain.py"))


def test_a_missing_file_is_named(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path / "project/my")
    message = (
        r"^MODELS\['mixer'\] was registered by my/mixer.py: start the command from the directory of your project, with "
        "the run in another one below it, or import that file first$"
    )
    with pytest.raises(UserError, match=message):
        load_model("../runs/mixer")
    load_config("mixer.py")
    load_model("../runs/mixer")


def test_a_file_that_fails_is_reported_in_one_line(project: Path) -> None:
    (project / "my/mixer.py").write_text("1 / 0\n" + MIXER)
    with pytest.raises(UserError, match=r"^.*my/mixer.py, which .* cannot be imported \(ZeroDivisionError: div"):
        load_model("runs/mixer")


@pytest.mark.parametrize(
    "name",
    ["{project}/my/mixer.py", "my/../my/mixer.py", "runs/evil.py", "runs/mixer/evil.py", "my/link.py", "my/out.py",
     "linked/evil.py", "../outside.py", "my/mixer.txt", "my", "", "my/mixer.py (a script)", "nowhere.py",
     "my/unrelated.py"],
)  # fmt: skip
def test_a_run_of_a_stranger_executes_nothing(
    project: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for evil in ("runs/evil.py", "runs/mixer/evil.py", "../outside.py", "my/mixer.txt"):
        (project / evil).write_text(MIXER)
    (project / "my/unrelated.py").write_text('print("executed")')
    (project / "my/link.py").symlink_to(project / "runs/evil.py")
    (project / "my/out.py").symlink_to(tmp_path / "outside.py")
    (project / "linked").symlink_to(project / "runs")
    run = read(project / "runs/mixer")
    run["registered_by"] = {"MODELS['mixer']": name.format(project=project)}
    (project / "runs/mixer/run.json").write_text(json.dumps(run))
    capsys.readouterr()
    with pytest.raises(UserError, match=r"^MODELS\['mixer'\] was registered by "):
        load_model("runs/mixer")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("here", ["runs/mixer", "runs", "runs/mixer/deep"])
def test_nothing_of_a_run_is_executed_from_within_it(
    project: Path, here: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for folder in ("runs/mixer/my", "runs/mixer/deep/my"):
        shutil.copytree(project / "my", project / folder)
    run = read(project / "runs/mixer")
    if here == "runs":
        run["registered_by"] = {"MODELS['mixer']": "mixer/my/mixer.py"}
        (project / "runs/mixer/run.json").write_text(json.dumps(run))
    monkeypatch.chdir(project / here)
    capsys.readouterr()
    with pytest.raises(UserError, match=r"^MODELS\['mixer'\] was registered by "):
        load_model(project / "runs/mixer")
    assert capsys.readouterr().out == ""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the project, to be edited, in a clone of its own."""
    for name in ("digits_jax", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "Begin"]):
        subprocess.run([*git, *command], check=True)
    (tmp_path / "my.py").write_text(
        "from digits_jax.studies import Sweep\n\n\n"
        'def get_sweep():\n    return Sweep("configs/linear.py:smoke", {"plain": {"dataset.name": "optical_digits"}}, '
        'baseline="plain", num_seeds=1)\n'
    )
    (tmp_path / "my.py").write_text('"""Why?"""\n' + (tmp_path / "my.py").read_text())
    return tmp_path


@pytest.mark.slow
def test_edited_code_meets_no_old_run(copy: Path, data_dir: Path) -> None:
    def start(module: str, *arguments: str) -> tuple[int, str, str]:
        environment = {**os.environ, "PYTHONPATH": str(copy), "TFDS_DATA_DIR": str(data_dir)}
        command = [sys.executable, "-m", f"digits_jax.{module}", *arguments]
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=300)
        return done.returncode, done.stdout, done.stderr

    def edit(old: str, new: str) -> None:
        file = copy / "digits_jax/models.py"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))

    main = ("main", "--config=linear:smoke", "--config.dataset.name=optical_digits")
    sweep = ("studies.sweep", "--sweep=my.py")
    exit_code, out, err = start(*main)
    assert exit_code == 0, err
    (first,) = (path.parent.relative_to(copy) for path in copy.glob("runs/linear/*/run.json"))
    assert not (copy / first / "changes.diff").exists()
    assert "1 reused from elsewhere" in start(*sweep)[1]

    edit("Softmax regression: logits", "# Multinomial logistic regression: logits")
    edit("- mean) / std", "-  mean) / std  # as the post")
    exit_code, out, err = start(*main)
    assert (exit_code, err) == (0, "")
    assert "finished, nothing is left to train" in out
    assert "1 done" in start(*sweep)[1]

    edit("-  mean) / std", "- mean) / std * 0.5")
    differs = "other code (digits_jax/models.py differs): "
    refusal = f"error: {first} was trained by {differs}--fresh trains anew beside it, --accept_code continues it"
    exit_code, out, err = start(*main)
    assert (exit_code, out) == (1, "")
    assert err == f"{refusal} and records the change\n"
    exit_code, out, err = start(*sweep)
    assert exit_code == 1
    assert f"the result of variant 'plain' with seed 0 is of {differs}--fresh trains anew" in err
    exit_code, out, err = start("apps.evaluate", f"--workdir={first}")
    assert exit_code == 0, err
    assert err.count(f"warning: {first} was trained by {differs}its predictions may differ\n") == 1

    exit_code, out, err = start(*sweep, "--fresh")
    assert exit_code == 0, err
    assert "* 0.5" in (copy / f"{first}-2/changes.diff").read_text()
    exit_code, out, err = start(*main)
    assert f"seed 0 in {first}-2; finished" in out, err
    exit_code, out, err = start(*main, "--fresh", "--accept_code")
    assert (exit_code, err) == (2, "error: --fresh and --accept_code are given: expected one of them\n")

    # One in mid-run: it is interrupted before its first step.
    stopped = [*main, "--config.seed=7"]
    script = (
        "import os, signal\nfrom digits_jax import data, input_pipeline\n"
        "calls = input_pipeline.DevicePipeline.calls\n"
        "def stop(self, *arguments, **options):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n    return calls(self, *arguments, **options)\n"
        "input_pipeline.DevicePipeline.calls = stop\n"
    )
    (copy / "sitecustomize.py").write_text(script)
    assert start(*stopped)[0] == 75
    (copy / "sitecustomize.py").unlink()
    edit("* 0.5", "* 0.25")
    exit_code, out, err = start(*stopped)
    assert exit_code == 1
    assert differs in err
    exit_code, out, err = start(*stopped, "--accept_code")
    assert exit_code == 0, err
    assert "resum" in out or "best on the test set" in out
    assert start(*stopped)[0] == 0


def test_a_config_from_before_a_loss_was_registered(own_loss: str, small_config: ConfigDict) -> None:
    load_config(own_loss)
    assert "factor" not in small_config.loss
    small_config.loss.name = "scaled"
    assert api.train(small_config, quiet=True).result["config"]["loss"]["factor"] == 2.0


def test_runs_of_a_sweep_in_which_only_one_variant_has_an_argument(
    own_loss: str, write_sweep: Callable[..., str], tmp_path: Path
) -> None:
    variants = f'"low": SMALL, "own": SMALL | {{"config": {own_loss!r}}}'
    assert finish_sweep(write_sweep(variants=variants, num_seeds="1"), tmp_path) == ["waiting"] * 2
    forget_the_loss()  # as a process that loads nothing of it
    (run,) = tmp_path.glob("runs/linear/*")
    assert "factor" in read(run)["config"]["loss"]
    assert load_model(run).config.loss.name == "cross_entropy"
