"""The second process finds what the first compiled."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

from digits_jax.ops import compilation

PROGRAM = """
import jax
from digits_jax.storage import enable_compilation_cache
enable_compilation_cache()
print(jax.jit(lambda x: x * 2 + 1)(20.0))
"""


def run(environment: dict[str, str], program: str = PROGRAM) -> str:
    """What the program prints to stderr, with only the given settings for the cache."""
    inherited = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    process = subprocess.run(
        [sys.executable, "-c", program], env=inherited | environment, capture_output=True, text=True, timeout=120
    )
    assert (process.returncode, process.stdout) == (0, "41.0\n")
    return process.stderr


def programs(folder: Path) -> dict[Path, int]:
    """The cached programs, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*-cache")}


def test_programs_are_kept_for_the_user_and_the_machine(tmp_path: Path) -> None:
    assert run({"XDG_CACHE_HOME": str(tmp_path)}) == ""
    first = programs(tmp_path)
    assert first
    (folder,) = {path.parent for path in first}
    assert folder.parent == tmp_path / "digits_jax"
    assert run({"XDG_CACHE_HOME": str(tmp_path)}) == ""
    assert programs(tmp_path) == first


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two cores, and a choice"
)
@pytest.mark.parametrize(
    "setting", ["XDG_CACHE_HOME", pytest.param("JAX_COMPILATION_CACHE_DIR", marks=pytest.mark.slow)]
)
def test_programs_for_one_core_are_not_taken_for_two(tmp_path: Path, setting: str) -> None:
    run({setting: str(tmp_path)})
    for_all = programs(tmp_path)
    run(
        {setting: str(tmp_path)},
        program="import os; os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])" + PROGRAM,
    )
    assert programs(tmp_path).keys() > for_all.keys()


def test_the_folder_that_jax_is_told_is_kept(tmp_path: Path) -> None:
    run({"XDG_CACHE_HOME": str(tmp_path / "a"), "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "b")})
    assert programs(tmp_path / "b")
    assert not (tmp_path / "a").exists()


def test_a_folder_that_cannot_be_made_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "digits_jax").write_text("a file")
    message = run({"XDG_CACHE_HOME": str(tmp_path)})
    assert message.startswith("warning: ")
    assert "JAX_COMPILATION_CACHE_DIR=FOLDER" in message
    assert message.count("\n") == 1


@pytest.mark.slow
def test_failures_of_the_cache_are_one_line_and_damaged_programs_are_replaced(tmp_path: Path) -> None:
    program = f"{PROGRAM}jax.numpy.tanh(1.0)"
    full_disk = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
    messages = [run({"XDG_CACHE_HOME": str(tmp_path)}, program=full_disk + program)]
    truncated = programs(tmp_path)
    assert len(truncated) > 1
    assert {path.stat().st_size for path in truncated} == {100}
    messages.append(run({"XDG_CACHE_HOME": str(tmp_path)}, program=program))
    for message in messages:
        assert message.startswith("warning: ")
        assert message.count("\n") == 1
    assert programs(tmp_path).keys() == truncated.keys()
    assert min(path.stat().st_size for path in truncated) > 100


def test_a_version_of_xla_without_the_option_compiles_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def old_jit(function: Any, *, compiler_options: dict[str, Any], **options: Any) -> Any:
        names = {name.replace("ynn", "nonesuch"): value for name, value in compiler_options.items()}
        return jit(function, compiler_options=names, **options)

    jit = jax.jit
    compilation.cpu_options.cache_clear()
    monkeypatch.setattr(jax, "jit", old_jit)
    assert compilation.jit(lambda x: x * 2)(20.0) == 40
    compilation.cpu_options.cache_clear()
