"""What a run is computed with: hardware, versions, numeric settings, and the commit of the code."""

import functools
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import jax

import digits_jax
from digits_jax.storage import num_cores

_VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2"}
GIT_REVISION = "DIGITS_JAX_GIT_REVISION"  # environment variable, see `git_revision`
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
NUMERICS = {  # JAX's settings that change a run's bits, with their defaults
    "jax_enable_x64": False,
    "jax_default_matmul_precision": None,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_numpy_dtype_promotion": "standard",
}
_SAME_BITS_FLAGS = ("--xla_dump", "--xla_force_host_platform_device_count")  # devices are recorded anyway


def describe_machine() -> dict[str, Any]:
    """Returns the hardware and versions of this machine; nothing that names it."""
    return {
        "devices": [device.device_kind for device in jax.devices()],
        "cpu": _cpu_model(),
        "cores": num_cores(),
        "numerics": describe_numerics(),
        "versions": {
            "digits_jax": digits_jax.__version__,
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in _PACKAGES},
        },
    }


def describe_numerics() -> dict[str, Any]:
    """Returns the settings that decide how JAX and XLA compute on this machine."""
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(_SAME_BITS_FLAGS)]
    return {**{name: getattr(jax.config, name) for name in NUMERICS}, "XLA_FLAGS": " ".join(sorted(set(flags)))}


def unusual_numerics() -> list[str]:
    """Returns the settings of JAX, such as "jax_enable_x64 is True", that differ from their defaults."""
    given = describe_numerics()
    return [f"{name} is {given[name]}" for name, default in NUMERICS.items() if given[name] != default]


def _cpu_model() -> str:
    """Returns the processor's name and its widest vectors, which decide how XLA computes."""
    try:
        described = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        described = ""
    found = re.search(r"model name\s*: (.*)", described)
    vectors = next((f" with {name}" for flag, name in _VECTORS.items() if f" {flag} " in described), "")
    return (found[1] if found else platform.processor()) + vectors


def git_revision() -> str | None:
    """Returns the commit that the code comes from, with "+changes" if files differ from it; None outside a clone.

    The environment variable `DIGITS_JAX_GIT_REVISION` names it for a copy of a clone's code.
    """
    if GIT_REVISION in os.environ:
        return os.environ[GIT_REVISION]
    found = re.match(r"# branch\.oid ([0-9a-f]+)\n", status := _git("status", "--porcelain=v2", "--branch"))
    is_changed = any(not line.startswith("#") for line in status.splitlines())
    return found[1] + "+changes" * is_changed if found else None


def git_changes(*, max_chars: int = 100_000) -> str:
    """Returns how tracked files of the package and the configs differ from the commit; long ones are cut."""
    if GIT_REVISION in os.environ:
        return ""
    changes = _git("diff", "--no-ext-diff", "--no-color", "HEAD", "--", "digits_jax", "configs")
    cut = len(changes) - max_chars
    return f"{changes[:max_chars]}\n(cut: {cut:,} more characters)\n" if cut > 0 else changes


@functools.cache
def _git(*arguments: str) -> str:
    """Returns the output of a git command in the clone of the code; nothing outside of one."""
    command = ["git", "-C", str(Path(digits_jax.__file__).parents[1]), *arguments]
    try:
        return subprocess.run(command, capture_output=True, check=True).stdout.decode(errors="replace")
    except (OSError, subprocess.CalledProcessError):
        return ""
