"""The choice between the project's kernels and XLA's own, made in this one place while a program is traced."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

KERNELS = ("auto", "winograd", "matmul", "lax")
_current: ContextVar[str] = ContextVar("kernels", default="auto")


@contextlib.contextmanager
def using(kernels: str, *, vmapped: bool = False) -> Iterator[None]:
    """Selects the implementation of convolutions and dense layers that are traced inside.

    JAX traces a function when it is first called, so enter this inside the traced function, or decorate it:
    `jax.jit(ops.using("lax")(function))`. Each thread has its own selection.

    Args:
      kernels: "winograd" and "matmul" compute convolutions as matrix products, the first after Winograd's transforms
        where its tiles fit, and dense layers by `dot_general`; "lax" leaves both to XLA. "auto", the default outside
        of any context, is "winograd" on a CPU and "lax" elsewhere.
      vmapped: whether `jax.vmap` maps over the kernels, as where one program trains several seeds. A convolution is
        then a grouped one, which is slow on a GPU too, while a matrix product stays one: "auto" is "winograd".

    Raises:
      ValueError: `kernels` is none of `KERNELS`.
    """
    if kernels not in KERNELS:
        raise ValueError(f"kernels is {kernels!r}: expected one of {', '.join(KERNELS)}")
    token = _current.set("winograd" if kernels == "auto" and vmapped else kernels)
    try:
        yield
    finally:
        _current.reset(token)


def selected() -> str:
    """Returns the selected implementation: "winograd", "matmul" or "lax"."""
    kernels = _current.get()
    if kernels != "auto":
        return kernels
    return "winograd" if jax.default_backend() == "cpu" else "lax"
