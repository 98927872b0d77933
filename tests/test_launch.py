"""`launch.sh` with fakes of `gcloud`, `uv` and Python that only record their arguments."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TPU = ("tpu", "--name=digits", "--zone=us-central2-b", "--type=v4-16", "--bucket=gs://mine")
FAKE_GCLOUD = """\
#!/usr/bin/env bash
printf '%s\\0' gcloud "$@" >> "$LOG"; echo >> "$LOG"
[[ "$*" == *describe* ]] && cat "$STATES" && echo ACTIVE > "$STATES"
[[ -z "$FAILING" || "$*" != *"$FAILING"* ]]
"""


@pytest.fixture
def launch(tmp_path: Path):
    """Runs launch.sh with the fake on the PATH; returns how it ended, and the commands that gcloud got."""
    (tmp_path / "bin").mkdir()
    for name, script in (("gcloud", FAKE_GCLOUD), ("sleep", "#!/usr/bin/env bash\n")):
        (tmp_path / "bin" / name).write_text(script)
        (tmp_path / "bin" / name).chmod(0o755)

    def run(*arguments: str, failing: str = "") -> tuple[subprocess.CompletedProcess, list[list[str]]]:
        log = tmp_path / "log"
        log.write_text("")
        (tmp_path / "states").write_text("WAITING_FOR_RESOURCES\n")
        found = subprocess.run(
            [ROOT / "launch.sh", *arguments],
            env={
                **os.environ,
                "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
                "TMPDIR": str(tmp_path),
                "LOG": str(log),
                "STATES": str(tmp_path / "states"),
                "FAILING": failing,
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
        return found, [line.split("\0")[:-1] for line in log.read_text().splitlines()]

    return run


@pytest.mark.parametrize("options", [(), ("--spot",), ("--queued",), ("--queued", "--spot")])
def test_a_dry_run_prints_what_is_then_done(launch, options: tuple[str, ...]) -> None:
    flags = ("--config=configs/vgg.py", "--config.dataset.source_dir=/data/my digits")
    planned, none = launch(*TPU, *options, "--dry_run", "--", *flags)
    assert planned.returncode == 0
    assert none == []
    plan = [shlex.split(line) for line in planned.stdout.splitlines()]
    _, done = launch(*TPU, *options, "--", *flags)
    # It asks the queue as long as it has to.
    done = [command for n, command in enumerate(done) if n == 0 or command != done[n - 1]]
    assert [command for command in plan if command[0] == "gcloud"] == done
    steps = [" ".join(command[3:5]) for command in done]
    create = ["queued-resources create", "queued-resources describe"] if "--queued" in options else ["tpu-vm create"]
    delete = "queued-resources delete" if "--queued" in options else "tpu-vm delete"
    assert steps == [*create, "tpu-vm scp", "tpu-vm ssh", "tpu-vm ssh", delete]
    assert ("--spot" in done[0]) == ("--spot" in options)
    training = next(word for word in done[-2] if word.startswith("--command=")).removeprefix("--command=")
    assert shlex.split(training)[-4:] == ["digits_jax.main", "--workdir=gs://mine/digits", *flags]


@pytest.mark.slow
def test_what_fails_still_deletes_what_was_created(launch) -> None:
    failed, done = launch(*TPU, failing="digits_jax.main")
    assert failed.returncode == 1
    assert done[-1][4] == "delete"
    failed, done = launch(*TPU, failing="create")
    assert failed.returncode == 1
    assert [command[4] for command in done] == ["create"]  # there may be one of that name that is not ours
    _, done = launch(*TPU, "--keep", failing="digits_jax.main")
    assert done[-1][4] == "ssh"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (TPU[:-1], "--bucket is missing"),
        ((*TPU, "--spott"), "'--spott'"),
        ((*TPU[:-1], "--bucket=mine"), "'--bucket=mine'"),
        (("tpus",), "unknown command 'tpus'"),
    ],
)
def test_mistakes_are_answered_in_one_line(launch, arguments: tuple[str, ...], message: str) -> None:
    found, done = launch(*arguments)
    assert found.returncode == 2
    assert message in found.stderr
    assert found.stderr.count("\n") == 1
    assert done == []


FAKE = """\
#!/usr/bin/env bash
printf '%s\\0' "$(basename "$0")" "$@" >> "$LOG"; echo >> "$LOG"
if [[ "$*" == *digits_jax.data* ]]; then echo "$PREPARING"; [[ -z "$PREPARING" ]]; fi
"""


@pytest.fixture
def clone(tmp_path: Path):
    """Runs a copy of launch.sh with a fake uv and Python; returns how it ended, and the commands that those got."""
    for name in ("launch.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for path in (tmp_path / "bin" / "uv", tmp_path / ".venv" / "bin" / "python"):
        path.parent.mkdir(parents=True)
        path.write_text(FAKE)
        path.chmod(0o755)

    def run(*arguments: str, preparing: str = "") -> tuple[subprocess.CompletedProcess, list[list[str]]]:
        log = tmp_path / "log"
        log.write_text("")
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "LOG": str(log), "PREPARING": preparing}
        found = subprocess.run(
            [tmp_path / "launch.sh", *arguments], env=env, capture_output=True, text=True, timeout=60
        )
        return found, [line.split("\0")[:-1] for line in log.read_text().splitlines()]

    return run


def test_setup_installs_once_what_the_readme_needs(clone) -> None:
    install = ["uv", "pip", "install", "--quiet", "--python", ".venv/bin/python", "--constraint", "constraints.txt"]
    assert clone("setup")[1] == [[*install, "--editable", ".[apps,studies,tensorboard]"]]
    assert clone("setup")[1] == []
    assert clone("setup", "gcs", "cuda")[1] == [[*install, "--editable", ".[apps,cuda,gcs,studies,tensorboard]"]]


@pytest.mark.parametrize("config", [("--config=configs/vgg.py",), ("--config", "configs/vgg.py")])
@pytest.mark.parametrize("command", [(), ("train",)])
def test_training_with_a_config(clone, command: tuple[str, ...], config: tuple[str, ...]) -> None:
    *_, train = clone(*command, "--config.epochs", "(1, 2)", *config, "--config.seed=1")[1]
    flags = ["--config.epochs", "(1, 2)", "--config=configs/vgg.py", "--config.seed=1"]
    assert train == ["python", "-m", "digits_jax.main", *flags]


def test_training_without_a_config(clone) -> None:
    default = ["python", "-m", "digits_jax.main", "--config=bn_dropout"]
    prepare = ["python", "-m", "digits_jax.data", "--name=mnist"]
    assert clone()[1][1:] == [prepare, default]
    assert clone("--config.seed=1")[1] == [prepare, [*default, "--config.seed=1"]]
    assert clone("--config.dataset.name=kmnist")[1] == [[*default, "--config.dataset.name=kmnist"]]
    unreachable, done = clone(preparing="error: http://mnist cannot be reached")
    assert done == [prepare, [*default, "--config.dataset.name=optical_digits"]]
    assert "training on optical_digits instead" in unreachable.stdout
    damaged, done = clone(preparing="error: mnist is corrupted")
    assert (damaged.returncode, damaged.stderr, done) == (1, "error: mnist is corrupted\n", [prepare])
