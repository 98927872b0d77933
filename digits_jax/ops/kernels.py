"""The choice between the project's kernels and XLA's own, made in this one place while a program is traced."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, NoReturn

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

KERNELS = ("auto", "winograd", "matmul", "lax")
_current: ContextVar[str] = ContextVar("kernels", default="auto")


@contextlib.contextmanager
def using(kernels: str, *, vmapped: bool = False) -> Iterator[None]:
    """Selects the kernels of the convolutions and dense layers that are traced inside the context.

    JAX traces a function at its first call and not again, so enter the context inside the traced function, or decorate
    it: `jax.jit(ops.using("lax")(function))`. Each thread has its own selection.

    Args:
      kernels: "winograd" and "matmul" are the project's own: convolutions as matrix products, in the first with
        Winograd's transforms where their tiles fit, and dense layers with a faster gradient. "lax" is XLA's. "auto",
        the default outside of any context, is "winograd" on a CPU and "lax" elsewhere.
      vmapped: whether `jax.vmap` maps over the layers' parameters, as where one program trains several seeds. It makes
        a convolution a grouped one, while a matrix product stays one: off a CPU, "auto" is "matmul" (docs/gpu.md).
    """
    if kernels not in KERNELS:
        raise ValueError(f"kernels is {kernels!r}: expected one of {', '.join(KERNELS)}")
    token = _current.set("matmul" if kernels == "auto" and vmapped and jax.default_backend() != "cpu" else kernels)
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


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise TypeError(
        "the project's CPU kernels have no forward-mode derivative (jax.jvp, jax.jacfwd): "
        'trace the function under digits_jax.ops.using("lax"), or set config.execution.kernels=lax'
    )


_reverse_only_p = Primitive("reverse_only")  # the identity on tangents, which only its transpose computes
_reverse_only_p.def_impl(_refuse)
_reverse_only_p.def_abstract_eval(lambda tangent: tangent)
mlir.register_lowering(_reverse_only_p, _refuse)
ad.deflinear2(_reverse_only_p, lambda cotangent, _: [cotangent])
batching.defvectorized(_reverse_only_p)


@jax.custom_jvp
def reverse_only(x: jax.Array) -> jax.Array:
    """Returns x, the argument of a `jax.custom_vjp`: forward mode raises an error that names the way out."""
    return x


reverse_only.defjvp(lambda primals, tangents: (primals[0], _reverse_only_p.bind(tangents[0])))
