"""`./launch.sh tpu` with a `gcloud` that records its commands and gives prepared answers."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from digits_jax.apps.tpu.launcher import GaveUpError, launch, pack
from digits_jax.apps.tpu.machine import GcloudError, Tpu
from digits_jax.errors import ConfigError, UserError

ROOT = Path(__file__).parents[1]
FLAGS = ["--workdir=gs://mine/digits", "--config=vgg", "--config.dataset.source_dir=/my digits"]
SHOWN = shlex.join(FLAGS)
NOT_FOUND = "1 ERROR: (gcloud.compute.tpus.tpu-vm.describe) NOT_FOUND: Resource 'nodes/digits' was not found."
STOCKOUT = (
    '1 Waiting for operation...failed.\\nERROR: (gcloud.compute.tpus.tpu-vm.create) {\\n  "code": 8,\\n  "message": '
    '"There is no more capacity in the zone \\"us-central2-b\\""\\n}'
)
CREATED = ["describe", "create", "describe", "status"]
# The answer to the nth command of a kind is the nth line of the file of that name, as long as there is one more.
GCLOUD = """\
#!/usr/bin/env bash
cd "$(dirname "$0")"
case "$*" in
  *setsid*) kind=start ;;
  *"--lines=+"*) kind=log ;;
  *"kill -TERM"*) kind=stop ;;
  *state=*) kind=status ;;
  *"launch.sh setup"*) kind=install ;;
  *"tail -n 5"*) kind=last_lines ;;
  *) kind=$4 ;;
esac
printf '%s\\0' "$kind" "$@" >>commands
echo >>commands
answer="0 "
if [[ -s $kind ]]; then
  answer="$(head -n 1 "$kind")"
  if (($(wc -l <"$kind") > 1)); then sed -i 1d "$kind"; fi
fi
if [[ "$answer" == kill* ]]; then kill -s ${answer#* } $PPID; exit; fi
code="${answer%% *}"
if ((code)); then exec >&2; fi
printf '%b\\n' "${answer#* }"
exit "$code"
"""


class Gcloud:
    """A fake on the PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.waits: list[float] = []
        (folder / "gcloud").write_text(GCLOUD)
        (folder / "gcloud").chmod(0o755)
        self.answers(describe=[NOT_FOUND, "0 READY"], status=["0 none lost ", f"0 abc 0 {SHOWN}"])

    def answers(self, **answers: list[str]) -> None:
        for kind, lines in answers.items():
            (self.folder / kind).write_text("".join(f"{line}\n" for line in lines))

    @property
    def commands(self) -> list[list[str]]:
        log = self.folder / "commands"
        return [line.split("\0")[:-1] for line in log.read_text().splitlines()] if log.exists() else []

    @property
    def kinds(self) -> list[str]:
        return [command[0] for command in self.commands]


@pytest.fixture
def gcloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gcloud:
    fake = Gcloud(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("time.sleep", fake.waits.append)
    return fake


def new_tpu(**options: bool) -> Tpu:
    return Tpu("digits", "us-central2-b", "v4-16", "tpu-ubuntu2204-base", **options)


def run(tpu: Tpu | None = None, **options: int) -> int:
    return launch(tpu or new_tpu(), "abc", ["digits_jax.bundle", "digits_jax.patch"], FLAGS, **options)


@pytest.mark.parametrize("options", [(), ("spot",), ("queued", "spot")])
def test_a_dry_run_prints_what_is_then_done(
    gcloud: Gcloud, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    chosen = dict.fromkeys(options, True)
    assert run(new_tpu(dry_run=True, **chosen)) == 0
    planned = [shlex.split(line)[1:] for line in capsys.readouterr().out.splitlines() if line.startswith("gcloud ")]
    assert gcloud.commands == []
    if "queued" in options:
        gcloud.answers(describe=[NOT_FOUND, NOT_FOUND, "0 READY"])
    assert run(new_tpu(**chosen)) == 0
    assert [command[1:] for command in gcloud.commands] == planned
    describe = ["describe"] * (1 + ("queued" in options))
    assert gcloud.kinds == [
        *describe, "create", "describe", "status", "scp", "install", "start", "status", "log", "delete",
    ]  # fmt: skip
    [create] = (command for command in gcloud.commands if command[0] == "create")
    assert ("queued-resources" in create, "--spot" in create) == ("queued" in options, "spot" in options)


def test_a_queued_request_is_waited_for(gcloud: Gcloud) -> None:
    gcloud.answers(describe=[NOT_FOUND, "0 WAITING_FOR_RESOURCES", NOT_FOUND, "0 PROVISIONING", "0 READY"])
    assert run(new_tpu(queued=True)) == 0
    assert "create" not in gcloud.kinds
    assert len(gcloud.waits) == 2


def test_training_is_told_its_flags_and_survives_the_terminal(gcloud: Gcloud) -> None:
    run()
    [start] = (command for command in gcloud.commands if command[0] == "start")
    script = next(word for word in start if word.startswith("--command=")).removeprefix("--command=")
    detached = shlex.split(script[script.index("setsid") :])
    assert detached[:3] == ["setsid", "bash", "-c"]
    assert f"python -m digits_jax.main {SHOWN}; " in detached[3]


@pytest.mark.parametrize(("code", "installed"), [("abc", []), ("older", ["scp", "install"])])
def test_an_existing_tpu_is_used_and_installed_again_only_for_other_code(
    gcloud: Gcloud, code: str, installed: list[str]
) -> None:
    gcloud.answers(describe=["0 READY"], status=[f"0 abc 0 \\n{code} 0 ", f"0 abc 0 {SHOWN}"])
    assert run(keep=True) == 0
    assert gcloud.kinds == ["describe", "status", *installed, "start", "status", "log"]


def test_training_that_runs_already_is_followed(gcloud: Gcloud, capsys: pytest.CaptureFixture[str]) -> None:
    running = f"0 abc running {SHOWN}"
    # The connection breaks in the second line, and gcloud runs the command again.
    gcloud.answers(
        describe=["0 READY"],
        status=[running, running, f"0 abc 0 {SHOWN}"],
        log=[r"0 \x1eepoch 1\nepo\x1eepoch 1\nepoch 2", r"0 \x1eepoch 3"],
    )
    assert run() == 0
    assert gcloud.kinds == ["describe", "status", "status", "log", "status", "log", "delete"]
    assert [word for word in gcloud.commands[-2] if "--lines=+3 " in word]
    assert capsys.readouterr().out.count("epoch") == 3


def test_other_training_is_neither_followed_nor_disturbed(gcloud: Gcloud) -> None:
    gcloud.answers(describe=["0 READY"], status=["0 abc running --config=linear"])
    with pytest.raises(ConfigError, match="digits is training with --config=linear: expected the same flags"):
        run()
    assert gcloud.kinds == ["describe", "status"]


def test_a_stockout_is_waited_out(gcloud: Gcloud, capsys: pytest.CaptureFixture[str]) -> None:
    gcloud.answers(create=[STOCKOUT, STOCKOUT, "0 "], describe=[NOT_FOUND] * 3 + ["0 READY"])
    assert run() == 0
    assert gcloud.kinds[:6] == ["describe", "create"] * 3
    assert gcloud.waits[:2] == [30, 60]
    assert re.search(r"There is no more capacity in the zone .*: attempt 2 of 30 in 30 s\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("error", "is_temporary"),
    [
        ("RESOURCE_EXHAUSTED: Quota limit 'TPUV4sPodPerZoneForTPUAPI' has been exceeded. Limit: 32 in zone z", True),
        ("Quota 'TPUV2sPreemptiblePodPerProjectPerZoneForTPUAPI' exhausted. Limit 32 in zone z", True),
        ('{ "code": 13, "message": "an internal error has occurred" }', True),
        ("Quota limit 'TPUV4sPodPerZoneForTPUAPI' has been exceeded. Limit: 0 in zone z", False),
        ("PERMISSION_DENIED: Permission 'tpu.nodes.create' denied", False),
        ("INVALID_ARGUMENT: Cloud TPU received a bad request. the accelerator v4-7 was not found", False),
    ],
)
def test_which_errors_of_creation_are_final(gcloud: Gcloud, error: str, is_temporary: bool) -> None:
    gcloud.answers(create=[f"1 ERROR: (gcloud.compute.tpus.tpu-vm.create) {error}"], describe=[NOT_FOUND])
    with pytest.raises(UserError) as raised:
        run(attempts=2)
    assert gcloud.kinds == (["describe", "create"] * 2 + ["delete"] if is_temporary else ["describe", "create"])
    assert str(raised.value).startswith(f"(gcloud.compute.tpus.tpu-vm.create) {error}")
    assert raised.value.exit_code == (75 if is_temporary else 1)


def test_a_preempted_tpu_is_created_again_and_training_resumes(gcloud: Gcloud) -> None:
    gone = '1 ERROR: (gcloud.compute.tpus.tpu-vm.ssh) This TPU has terminal state "PREEMPTED".'
    gcloud.answers(
        describe=[NOT_FOUND, "0 READY", "0 PREEMPTED", "0 PREEMPTED", "0 READY"],
        status=["0 none lost ", f"0 abc running {SHOWN}", gone, "0 none lost ", f"0 abc 0 {SHOWN}"],
    )
    assert run() == 0
    train = ["scp", "install", "start", "status", "log"]
    again = ["status", "describe", "describe", "delete", "create", "describe", "status"]
    assert gcloud.kinds == [*CREATED, *train, *again, *train, "delete"]


def test_a_broken_connection_is_no_preemption(gcloud: Gcloud) -> None:
    broken = "255 ERROR: (gcloud.compute.tpus.tpu-vm.ssh) [/usr/bin/ssh] exited with return code [255]."
    running = f"0 abc running {SHOWN}"
    gcloud.answers(describe=["0 READY"], status=[running, running, broken, f"0 abc 0 {SHOWN}"])
    assert run() == 0
    assert gcloud.kinds == ["describe", "status", "status", "log", "status", "describe", "status", "log", "delete"]
    gcloud.answers(describe=["0 READY"], status=[running, broken])
    with pytest.raises(UserError, match=r"exited with return code \[255\]\.; training is left running"):
        run()
    assert gcloud.kinds[-1] == "describe"  # nothing is deleted


@pytest.mark.parametrize("states", [["0", "137"], ["75", "75"], ["lost", "lost"], ["1", "139"]])
def test_a_crash_or_an_interruption_is_retried_on_the_same_tpu(gcloud: Gcloud, states: list[str]) -> None:
    ended = "\\n".join(f"abc {state} {SHOWN}" for state in states)
    gcloud.answers(status=["0 none lost ", f"0 {ended}", f"0 {ended}", f"0 abc 0 {SHOWN}"])
    assert run() == 0
    assert gcloud.kinds.count("create") == gcloud.kinds.count("install") == 1
    assert gcloud.kinds.count("start") == 2


@pytest.mark.parametrize("state", ["1", "2"])
def test_a_users_mistake_is_not_retried(gcloud: Gcloud, state: str) -> None:
    gcloud.answers(status=["0 none lost ", f"0 abc {state} {SHOWN}\\nabc {state} {SHOWN}"])
    assert run() == int(state)
    assert gcloud.kinds.count("start") == 1
    assert gcloud.kinds[-2:] == ["last_lines", "delete"]


def test_training_that_was_stopped_is_not_retried(gcloud: Gcloud) -> None:
    gcloud.answers(status=["0 none lost ", f"0 abc stopped {SHOWN}"])
    assert run() == 75
    assert gcloud.kinds.count("start") == 1


def test_attempts_are_used_up(gcloud: Gcloud) -> None:
    gcloud.answers(status=["0 none lost ", f"0 abc 139 {SHOWN}"])
    with pytest.raises(GaveUpError, match="training ended with exit code 139; all 3 attempts are used up") as raised:
        run(attempts=3)
    assert raised.value.exit_code == 139
    assert gcloud.kinds.count("start") == 3
    assert gcloud.kinds[-1] == "delete"


@pytest.mark.parametrize("answer", ["", "y", "n", None])
def test_ctrl_c_asks_whether_to_leave_training_running(
    gcloud: Gcloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str | None
) -> None:
    gcloud.answers(log=["kill INT"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: answer is not None)
    monkeypatch.setattr("builtins.input", lambda _: answer)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert gcloud.kinds[-3:] == (["log", "stop", "delete"] if answer == "n" else ["start", "status", "log"])
    assert ("logs, stop or delete --name=digits --zone=us-central2-b" in capsys.readouterr().out) == (answer != "n")


def test_a_closed_terminal_leaves_training_running(gcloud: Gcloud, monkeypatch: pytest.MonkeyPatch) -> None:
    gcloud.answers(log=["kill HUP"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    before = signal.signal(signal.SIGHUP, lambda *_: sys.exit(75))  # as `cli.run` does
    try:
        with pytest.raises(SystemExit):
            run()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert gcloud.kinds[-1] == "log"


def test_ctrl_c_before_training_deletes_the_tpu(gcloud: Gcloud) -> None:
    gcloud.answers(install=["kill INT"])
    with pytest.raises(KeyboardInterrupt):
        run()
    assert gcloud.kinds[-1] == "delete"


@pytest.mark.parametrize(("state", "kind"), [("0 WAITING_FOR_RESOURCES", "queued-resources"), (NOT_FOUND, "tpu-vm")])
def test_a_request_that_still_waits_is_deleted(gcloud: Gcloud, state: str, kind: str) -> None:
    gcloud.answers(describe=[state])
    command = [sys.executable, "-m", "digits_jax.apps.tpu", "delete", "--name=digits", "--zone=us-central2-b"]
    assert subprocess.run(command, cwd=ROOT).returncode == 0
    (deleted,) = [command for command in gcloud.commands if command[0] == "delete"]
    assert deleted[3:6] == [kind, "delete", "digits"]


@pytest.fixture
def start_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Tpu]:
    """Starts a script in place of training on a TPU of one worker, which is this machine."""
    (tmp_path / "bin").mkdir()
    python = tmp_path / "digits_jax" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    gcloud = f'for word; do case "$word" in --command=*) HOME={tmp_path} exec bash -c "${{word#*=}}" ;; esac; done'
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    def start(script: str) -> Tpu:
        for path, content in ((tmp_path / "bin" / "gcloud", gcloud), (python, script)):
            path.write_text(f"#!/usr/bin/env bash\n{content}\n")
            path.chmod(0o755)
        tpu = new_tpu()
        assert tpu.workers() == [("none", "lost", "")]
        tpu.start(SHOWN)
        return tpu

    return start


@pytest.mark.parametrize(
    ("script", "state"),
    [
        pytest.param("exit 0", "0", marks=pytest.mark.slow),
        ("kill -KILL $$", "137"),
        ("echo 'error: run.json cannot be read'; exit 1", "1"),
        ("echo 'error: process 3 is gone (...); start all again to resume from the last checkpoint'; exit 1", "75"),
        pytest.param("echo 'error: process 1 did not come within 9 seconds'; exit 1", "75", marks=pytest.mark.slow),
    ],
)
def test_how_training_ended_is_known(
    start_training: Callable[[str], Tpu], capsys: pytest.CaptureFixture[str], script: str, state: str
) -> None:
    tpu = start_training(f'echo "$@"; {script}')
    assert tpu.follow() == [("none", state, SHOWN)]
    assert f"-m digits_jax.main {' '.join(FLAGS)}\n" in capsys.readouterr().out


def test_training_is_started_once_and_stopped(start_training: Callable[[str], Tpu], tmp_path: Path) -> None:
    tpu = start_training('trap "touch ~/saved; exit 75" TERM; touch ~/started; for _ in {1..300}; do sleep 0.1; done')
    while not (tmp_path / "started").exists():
        assert tpu.workers() == [("none", "running", SHOWN)]
    with pytest.raises(GcloudError):
        tpu.start("--config=linear")
    tpu.stop()
    assert tpu.workers() == [("none", "stopped", SHOWN)]
    assert (tmp_path / "saved").exists()
    assert (tmp_path / "training" / "exit_code").read_text() == "75\n"
    tpu.start("--config=linear")
    assert tpu.workers() == [("none", "running", "--config=linear")]
    tpu.stop()


@pytest.mark.slow
def test_a_signal_that_comes_too_early_is_sent_again(start_training: Callable[[str], Tpu], tmp_path: Path) -> None:
    again = 'trap "exit 75" TERM; touch ~/lost'
    tpu = start_training(f"trap '{again}' TERM; touch ~/started; for _ in {{1..300}}; do sleep 0.1; done")
    while not (tmp_path / "started").exists():
        time.sleep(0.01)
    tpu.stop()
    assert (tmp_path / "lost").exists()
    assert (tmp_path / "training" / "exit_code").read_text() == "75\n"


@pytest.fixture
def repository(tmp_path: Path) -> Callable[..., str]:
    """Runs git in a repository with one commit."""
    (tmp_path / "here").mkdir()

    def git(*words: str, folder: str = "here") -> str:
        identity = ("-c", "user.name=me", "-c", "user.email=me@example.org")
        command = ["git", "-C", str(tmp_path / folder), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    git("init", "--quiet")
    (tmp_path / "here" / "a.py").write_text("one\n")
    (tmp_path / "here" / ".gitignore").write_text("runs\n")
    git("add", "--all")
    git("commit", "--quiet", "--message=One")
    return git


def test_uncommitted_changes_are_refused_or_copied(tmp_path: Path, repository: Callable[..., str]) -> None:
    here = tmp_path / "here"
    clean, _ = pack(here, tmp_path, dirty=False)
    (here / "a.py").write_text("two\n")
    (here / "b.bin").write_bytes(bytes(range(256)))
    (here / "runs").write_text("ignored")
    status = repository("status", "--porcelain")
    with pytest.raises(ConfigError, match=r"^not committed: a.py, b.bin; commit them, or copy them with --dirty$"):
        pack(here, tmp_path, dirty=False)
    name, [bundle, patch] = pack(here, tmp_path, dirty=True)
    assert name.startswith(f"{clean}+")
    assert repository("status", "--porcelain") == status  # the index is as it was
    repository("clone", "--quiet", bundle, str(tmp_path / "there"))
    repository("apply", patch, folder="there")
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == [".git", ".gitignore", "a.py", "b.bin"]
    assert (tmp_path / "there" / "b.bin").read_bytes() == bytes(range(256))
    (here / "a.py").write_text("three\n")
    assert pack(here, tmp_path, dirty=True)[0] != name


TPU = ["--name=digits", "--zone=us-central2-b", "--type=v4-16", "--bucket=gs://mine"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (TPU[:-1], "--bucket is missing"),
        ([*TPU[:-1], "--bucket=mine"], "--bucket is 'mine'"),
        pytest.param([*TPU, "--spott"], "'spott'", marks=pytest.mark.slow),
        pytest.param(["start", *TPU], "'start' is unknown", marks=pytest.mark.slow),
        pytest.param(["logs", *TPU], "digits in us-central2-b is not there", marks=pytest.mark.slow),
        pytest.param([*TPU, "--", "--config=vgg", "--config.sed=1"], "did you mean 'seed'?", marks=pytest.mark.slow),
    ],
)
def test_mistakes_are_answered_in_one_line(gcloud: Gcloud, arguments: list[str], message: str) -> None:
    command = [sys.executable, "-m", "digits_jax.apps.tpu", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert set(gcloud.kinds) <= {"describe"}
