"""The directory of JAX's persistent compilation cache."""

import contextlib
import functools
import hashlib
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any


def enable_compilation_cache() -> None:
    """Turns on JAX's persistent compilation cache for programs of any size.

    It is kept in `$JAX_COMPILATION_CACHE_DIR`, else in `user_cache_dir()`, with a subdirectory for each processor type
    and number of cores. Home directories are shared between machines, and a program compiled for one processor can
    crash another with an illegal instruction. JAX would also reuse a program compiled for one core where two are
    available, which leaves the second idle: `fast` then trains a quarter slower.
    """
    import jax  # late: what only writes files starts without JAX

    base = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(user_cache_dir())
    folder = f"{base}/xla-{_processor()}-{num_cores()}"
    if "://" not in folder:  # a bucket needs no directories
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            print(f"warning: {folder} cannot be made ({error.strerror}): programs compile at each start; "
                  "JAX_COMPILATION_CACHE_DIR=FOLDER names another", file=sys.stderr)  # fmt: skip
            jax.config.update("jax_compilation_cache_dir", None)
            return
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    warnings.showwarning = functools.partial(_repair, folder, warnings.showwarning, [])


def _repair(folder: str, show: Any, reported: list[str], message: Warning | str, *args: Any, **named: Any) -> None:
    """Stands in for `warnings.showwarning`: reports failures of the cache once, and removes damaged entries.

    JAX reports each program and never overwrites its entry; it does not name the entry, so all of a program's go.
    """
    found = re.match(r"Error (read|writ)ing persistent compilation cache entry for '([^']*)': (.*)", str(message))
    if not found:
        return show(message, *args, **named)
    if not reported:
        print(f"warning: {folder} holds damaged programs or cannot be written ({found[3]}): they compile again; "
              "JAX_COMPILATION_CACHE_DIR=FOLDER names another", file=sys.stderr)  # fmt: skip
    reported.append(found[2])
    for path in Path(folder).glob(f"{found[2]}-*-cache") if found[1] == "read" else ():
        with contextlib.suppress(OSError):
            path.unlink()


def num_cores() -> int:
    """Returns the number of cores that this process may use, for which XLA compiles."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def user_cache_dir() -> Path:
    """Returns `digits_jax` in the user's cache directory (`$XDG_CACHE_HOME` or `~/.cache`), which may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "digits_jax"


def _processor() -> str:
    """Returns eight hexadecimal digits that identify the processor's instruction set."""
    try:
        found = re.search(r"^(flags|Features)\s*:.*$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    description = found[0] if found else " ".join(os.uname()[3:])
    return hashlib.sha256(description.encode()).hexdigest()[:8]
