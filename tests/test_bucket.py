"""Folders on a bucket: of emulators on 127.0.0.1, through the library that speaks to real ones."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
from etils import epath
from etils.epath import gpath
from gcp_storage_emulator.server import create_server
from ml_collections import ConfigDict

from digits_jax import data, load_model
from digits_jax.errors import UserError
from digits_jax.runs import code, ensemble
from digits_jax.runs.interrupts import Interrupted
from digits_jax.storage import Mirror, open_path
from digits_jax.studies.sweep import load_sweep
from digits_jax.studies.sweep.tasks import create_tasks, run_tasks
from digits_jax.train_loop import train_and_evaluate
from tests.conftest import StopAfterAnEpoch
from tests.test_distributed import free_port


@pytest.fixture(scope="module", autouse=True)
def emulator() -> Iterator[None]:
    port = free_port()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks by gRPC, which the emulator has not
        monkeypatch.setitem(fsspec.config.conf, "gcs", {"token": "anon", "cache_timeout": 0})
        server = create_server("127.0.0.1", port, in_memory=True, default_bucket="digits")
        server.start()
        yield
        server.stop()


def _contents(folder: Path | epath.Path) -> dict[str, bytes]:
    files = {}
    for path in folder.iterdir():
        if path.is_dir():
            files |= {f"{path.name}/{name}": content for name, content in _contents(path).items()}
        else:
            files[path.name] = path.read_bytes()
    return files


@pytest.fixture(scope="module")  # s3fs keeps its connections
def s3_emulator() -> Iterator[None]:
    """Starts moto's server with a bucket."""
    s3fs = pytest.importorskip("s3fs", reason="needs s3fs: ./launch.sh setup s3")
    pytest.importorskip("moto", reason="needs moto: pip install 'moto[server]'")
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while server.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                monkeypatch.setenv(name, "test")
            monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            s3fs.S3FileSystem().mkdir("digits")
            yield
    finally:
        server.kill()
        server.wait()


@pytest.mark.slow
@pytest.mark.usefixtures("s3_emulator")
def test_what_is_pushed_to_s3_is_pulled_elsewhere(tmp_path: Path) -> None:
    check_mirror("s3://digits/a", tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("s3_emulator")
def test_a_run_on_s3_ends_like_one_on_disk(
    small_config: ConfigDict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_run("s3://digits/run", small_config, tmp_path / "run", capsys)


def test_what_is_pushed_is_pulled_elsewhere(tmp_path: Path) -> None:
    check_mirror("gs://digits/a", tmp_path)


def check_mirror(remote: str, tmp_path: Path) -> None:
    here = Mirror(remote, tmp_path / "here")
    assert not here.pull()
    (tmp_path / "here" / "deep").mkdir()
    (tmp_path / "here" / "deep" / "kept").write_bytes(b"\0\1")
    (tmp_path / "here" / "changed").write_text("before")
    (tmp_path / "here" / "gone").write_text("")
    here.push()
    (tmp_path / "here" / "changed").write_text("after")
    (tmp_path / "here" / "gone").unlink()
    here.push()
    assert Mirror(remote, tmp_path / "there").pull()
    assert _contents(tmp_path / "there") == {"deep/kept": b"\0\1", "changed": b"after"}


def test_a_push_that_is_cut_short_leaves_no_checkpoint_that_looks_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = Mirror("gs://digits/b", tmp_path)
    mirror.pull()
    for name in ("checkpoints/7/SHA256SUMS", "checkpoints/7/arrays/d", "checkpoints/5/SHA256SUMS"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    mirror.push()
    os.replace(tmp_path / "checkpoints/7", tmp_path / "checkpoints/9")
    write = epath.Path.write_bytes

    def write_no_sums(path: epath.Path, content: bytes) -> None:
        if path.name == "SHA256SUMS":
            raise OSError("the line is cut")
        write(path, content)

    monkeypatch.setattr(type(epath.Path("gs://digits/b")), "write_bytes", write_no_sums)
    with pytest.raises(UserError, match=r"gs://digits/b cannot be written \(OSError: the line is cut\)"):
        mirror.push()
    assert sorted(_contents(epath.Path("gs://digits/b"))) == [
        "checkpoints/5/SHA256SUMS",
        "checkpoints/7/SHA256SUMS",
        "checkpoints/7/arrays/d",
        "checkpoints/9/arrays/d",
    ]


@pytest.mark.slow
def test_a_run_on_a_bucket_stops_goes_on_elsewhere_and_ends_as_on_a_disk(
    small_config: ConfigDict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_run("gs://digits/run", small_config, tmp_path / "run", capsys)


def check_run(remote: str, config: ConfigDict, local: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = train_and_evaluate(config, local)
    with pytest.raises(Interrupted):
        train_and_evaluate(config, remote, writers=[StopAfterAnEpoch()])
    found = train_and_evaluate(config, remote)
    assert f"seed 0 in {remote}; resuming from step" in capsys.readouterr().out
    untimed = [[{**row, "train/seconds": 0} for row in rows] for rows in (found, expected)]
    assert untimed[0] == untimed[1]
    assert _names(epath.Path(remote)) == _names(local) - {"lock"}


def _names(folder: Path | epath.Path) -> set[str]:
    """Of what is in a run's folder, and of its checkpoints; what is deeper is named at random."""
    return {"/".join(name.split("/")[:2]) for name in _contents(folder) if not name.startswith("tensorboard")}


@pytest.mark.slow
def test_other_code_trains_beside_a_run_on_a_bucket(small_config: ConfigDict, monkeypatch: pytest.MonkeyPatch) -> None:
    train_and_evaluate(small_config, "gs://digits/code")
    edited = code._package_code() | {"digits_jax/models.py": "b" * 64}
    monkeypatch.setattr(code, "_package_code", lambda: edited)
    with pytest.raises(UserError, match=r"^gs://digits/code was trained by other code \(digits_jax/models.py differs"):
        train_and_evaluate(small_config, "gs://digits/code")
    train_and_evaluate(small_config, "gs://digits/code", code="fresh")
    train_and_evaluate(small_config, "gs://digits/code")
    assert epath.Path("gs://digits/code-2/result.json").exists()


def test_errors_name_the_folder_on_the_bucket(small_config: ConfigDict) -> None:
    train_and_evaluate(small_config, "gs://digits/mine")
    small_config.batch_size = 8
    with pytest.raises(UserError, match=r"^gs://digits/mine holds a run with config.batch_size = 16"):
        train_and_evaluate(small_config, "gs://digits/mine")
    with pytest.raises(UserError, match=r"^gs://not_there/run cannot be "):
        train_and_evaluate(small_config, "gs://not_there/run")


def test_tensorflow_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)  # as if it were installed
    monkeypatch.setattr("etils.epath.gpath._is_tf_installed", gpath._is_tf_installed.__wrapped__)  # not cached
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert not open_path("gs://digits/nothing").exists()


def test_a_bucket_without_the_extra(small_config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_config.dataset.data_dir = "gs://digits/data"
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.setenv("HOME", str(tmp_path))
    uses = (lambda: data.load_configured(small_config.dataset), lambda: load_model("gs://digits/trained"))
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UserError, match=r"^s3://digits/trained needs the extra s3 \([^\n]*\): ./launch.sh setup s3$"):
        load_model("s3://digits/trained")
    for use in (*uses, lambda: ensemble.load("gs://digits/trained")):
        with pytest.raises(
            UserError, match=r"^gs://digits/[^\n]* needs the extra gcs \([^\n]*\): ./launch.sh setup gcs$"
        ):
            use()


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # of aiohttp, about gcsfs
def test_data_on_a_bucket_are_left_there_and_found_there(
    small_config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_config.dataset.data_dir = "gs://digits/data/"
    monkeypatch.setenv("HOME", str(tmp_path / "one"))
    first = data.load_configured(small_config.dataset)
    monkeypatch.setenv("HOME", str(tmp_path / "other"))
    monkeypatch.setattr("digits_jax.data.tfds_store.prepare", None)  # is not called again
    second = data.load_configured(small_config.dataset)
    assert second.sha256 == first.sha256
    assert second.folder.is_relative_to(tmp_path / "other")
    assert data.is_prepared(second.folder)  # not only its cached arrays


def test_a_sweep_has_its_runs_on_a_bucket_and_finds_them_there(
    write_sweep: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = load_sweep(write_sweep(num_seeds="1"))
    for results in ("here", "elsewhere"):
        tasks = create_tasks(sweep, results=tmp_path / results, runs="gs://digits/sweep")
        assert [task.status for task in tasks] == ["waiting", "waiting"]
        assert [task.status for task in run_tasks(sweep, tasks)] == ["done", "done"]
        monkeypatch.setattr("digits_jax.train_loop._train_epoch", None)  # nothing is trained again
    assert _contents(tmp_path / "here") == _contents(tmp_path / "elsewhere")


def test_a_model_is_read_from_a_bucket(trained: Path, tmp_path: Path) -> None:
    mirror = Mirror("gs://digits/trained", tmp_path / "copy")
    mirror.pull()
    shutil.copytree(trained, mirror.local, dirs_exist_ok=True)
    mirror.push()
    assert load_model("gs://digits/trained").metrics == load_model(trained).metrics
    with pytest.raises(UserError, match=r"^gs://digits/trained/checkpoints has no checkpoint of step 8: expected one"):
        load_model("gs://digits/trained", checkpoint="8")
