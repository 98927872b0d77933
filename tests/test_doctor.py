"""Checks of a machine, and their remedies."""

import errno
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from digits_jax.apps import doctor
from digits_jax.apps.doctor import Finding


@pytest.fixture(autouse=True)
def a_fast_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_EXPERIMENT", "linear")


def test_a_machine_that_is_well() -> None:
    checks = (doctor.check_versions, doctor.check_devices, doctor.check_precision, doctor.check_determinism)
    findings = [finding for check in checks for finding in check()]
    assert [finding.remedy for finding in findings] == [""] * 5
    assert f"jax {jax.__version__}" in findings[0].found
    assert findings[1].found == "1 x cpu"
    assert findings[3].found == "products of float32 in float32, 64-bit numbers off"


def test_64_bit_numbers() -> None:
    with jax.enable_x64(True):
        (finding,) = doctor.check_precision()
    assert "64-bit numbers on" in finding.found
    assert "unset JAX_ENABLE_X64" in finding.remedy


def test_steps_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    build = doctor.speed.build_experiment
    learning_rate = iter([1.0, 1.001])

    def unsteady(*arguments: object) -> object:
        experiment = build(*arguments)  # type: ignore[arg-type]

        def steps(state: object, *rest: object) -> object:
            state, metrics = experiment.train_steps(state, *rest)  # type: ignore[arg-type]
            factor = next(learning_rate)
            return jax.tree.map(lambda leaf: leaf * factor, state.params), metrics

        return experiment._replace(train_steps=steps)

    monkeypatch.setattr(doctor.speed, "build_experiment", unsteady)
    (finding,) = doctor.check_determinism()
    assert "give different bits" in finding.found
    assert finding.remedy.startswith("XLA_FLAGS=")


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: doctor.shutil._ntuple_diskusage(1e9, 9e8, 1e8))
    findings = list(doctor.check_disk())
    assert [finding.what for finding in findings] == ["disk for data", "disk for runs", "disk for caches"]
    assert all(finding.found.startswith("0.1 GB free at /") for finding in findings)
    assert all(finding.remedy == "make room for 500 MB" for finding in findings)


def test_directories_that_cannot_be_written(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("data", "runs", "caches"):
        (tmp_path / name).write_text("in the place of a directory, where root cannot write either")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.chdir(tmp_path)
    findings = list(doctor.check_disk())
    assert [finding.found for finding in findings] == [
        f"{tmp_path / name} cannot be written (Not a directory)" for name in ("data", "runs", "caches")
    ]
    others = ["TFDS_DATA_DIR=FOLDER", "--workdir=FOLDER", "XDG_CACHE_HOME=FOLDER"]
    assert [finding.remedy.rpartition(" ")[2] for finding in findings] == others

    def refuse(dir: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))  # already has what would be written
    finding = next(doctor.check_disk())
    assert (finding.found, finding.remedy) == (f"{data_dir} cannot be written (Read-only file system)", "")


def test_data(data_dir: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    here, absent = doctor.check_data()
    assert here.what == "optical_digits"
    assert here.found.endswith("optical_digits/1.0.0: 1,437 + 360 images, verified")
    assert absent.found.startswith("mnist, fashion_mnist, kmnist (")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    folder = tmp_path / "optical_digits/1.0.0"
    folder.mkdir(parents=True)
    content = bytearray((data_dir / "optical_digits/1.0.0/digits_jax_arrays.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "digits_jax_arrays.npz").write_bytes(content)
    corrupted = next(doctor.check_data())
    assert corrupted.found.endswith("digits_jax_arrays.npz is corrupted")
    assert corrupted.remedy.endswith("python -m digits_jax.data --name=optical_digits")
    (folder / "digits_jax_arrays.npz").unlink()
    (folder / "dataset_info.json").write_text("{}")
    assert "prepared, decoded by the first run" in next(doctor.check_data()).found


@pytest.mark.slow
def test_speed_is_measured() -> None:
    speed, flops = doctor.measure_speed(seconds=0.01)
    assert 1e3 < speed < 1e9
    assert 1e8 < flops < 1e15


def test_speed_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "measure_speed", lambda: (1537.4, 90e9))
    monkeypatch.setattr(doctor.os, "getloadavg", lambda: (0.25, 9.0, 9.0))
    (finding,) = doctor.check_speed()
    assert finding.found.startswith(
        "linear trains on 1,537 images/s; matrix products reach 90 GFLOP/s (load average 0.2;"
    )
    assert finding.remedy == ""


def test_nothing_of_the_studies_is_imported() -> None:
    code = "import sys, digits_jax.apps.doctor; print([name for name in sys.modules if 'studies' in name])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert process.stdout.strip() == "[]"


@pytest.mark.parametrize(("remedy", "code", "last"), [("", 0, "all is well"), ("mend it", 1, "1 wrong: the remedy")])
def test_the_command(
    remedy: str, code: int, last: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def check() -> Iterator[Finding]:
        yield Finding("disk", "it is round")
        yield Finding("cores", "one of [two]", remedy)

    monkeypatch.setattr(doctor, "CHECKS", (check,))
    monkeypatch.setattr(doctor.storage, "enable_compilation_cache", lambda: None)
    assert doctor.main(["doctor"]) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ok", "disk", "it", "is", "round"]
    assert "one of [two]" in lines[1]
    assert lines[1].startswith("WRONG" if remedy else "ok")
    assert [line.strip() for line in lines[2:-1]] == ([f"-> {remedy}"] if remedy else [])
    assert lines[-1].startswith(last)
