"""How programs are compiled, and kept on disk, so that the next process with the same program need not compile it."""

import functools
import hashlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax


def jit(function: Callable[..., Any], **options: Any) -> Any:
    """Applies `jax.jit` with `cpu_options` on a CPU, for functions that Python calls, not another compiled function."""
    if jax.default_backend() == "cpu":
        options["compiler_options"] = cpu_options()
    return jax.jit(function, **options)


@functools.cache
def cpu_options() -> dict[str, Any]:
    """Returns the compiler options for a CPU that this version of XLA has.

    LLVM's later passes are left out: they take a quarter of the compilation or more, and steps are 2 to 4 % faster
    without them. Matrix products are left to Eigen, which is up to twice as fast as the library that newer versions of
    XLA call (YNNPACK); that library keeps the sums, in which it is faster than XLA itself.
    """
    common: dict[str, Any] = {"xla_backend_optimization_level": 1}
    sums_only = common | {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
    try:
        jax.jit(lambda: 0, compiler_options=sums_only).lower().compile()
    except jax.errors.JaxRuntimeError:  # a version of XLA that has no such option
        return common
    return sums_only


def enable_cache() -> None:
    """Turns JAX's persistent compilation cache on, for programs of any size.

    Its folder is `$JAX_COMPILATION_CACHE_DIR`, else `digits_jax` in the user's cache folder (`$XDG_CACHE_HOME` or
    `~/.cache`). There each kind of processor and number of cores has its own part. Home folders are shared between
    machines, and what was compiled for one processor may end another with an illegal instruction. What was compiled for
    one core leaves a second idle, and JAX would take it all the same: `fast` then trains a quarter slower on two.
    """
    base = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(cache_folder())
    folder = f"{base}/xla-{_processor()}-{num_cores()}"
    if "://" not in folder:  # a bucket has no folders to make
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            print(f"warning: {folder} cannot be made ({error.strerror}): programs compile at each start; "
                  "JAX_COMPILATION_CACHE_DIR=FOLDER names another", file=sys.stderr)  # fmt: skip
            jax.config.update("jax_compilation_cache_dir", None)
            return
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def num_cores() -> int:
    """How many this process may use, and XLA compiles for."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cache_folder() -> Path:
    """The project's part of the user's cache folder, which may not be there yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "digits_jax"


def _processor() -> str:
    """Eight hexadecimal digits for what instructions this processor knows."""
    try:
        found = re.search(r"^(flags|Features)\s*:.*$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    description = found[0] if found else " ".join(os.uname()[3:])
    return hashlib.sha256(description.encode()).hexdigest()[:8]
