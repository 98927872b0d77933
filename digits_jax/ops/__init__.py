"""Kernels for CPUs (convolution, dense, max-pool, Threefry), their selection, and `jit` with compiler options.

XLA's own are slow on a CPU where training runs, inside a loop of steps; `using` selects between the two.
"""

from digits_jax.ops import threefry
from digits_jax.ops.compilation import cpu_options, jit
from digits_jax.ops.conv import conv_general_dilated
from digits_jax.ops.dense import dot_general
from digits_jax.ops.kernels import KERNELS, using
from digits_jax.ops.layers import Conv, Dense, max_pool_2x2

__all__ = [
    "KERNELS",
    "Conv",
    "Dense",
    "conv_general_dilated",
    "cpu_options",
    "dot_general",
    "jit",
    "max_pool_2x2",
    "threefry",
    "using",
]
