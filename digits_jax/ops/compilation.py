"""`jax.jit` with the compiler's options that suit these programs."""

import functools
from collections.abc import Callable
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
