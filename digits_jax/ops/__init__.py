"""Faster kernels for CPUs (convolution, dense layer, max-pool, Threefry), image warps, `jit` with compiler options.

XLA:CPU compiles its own for a loop of training steps to slow code. `using` selects between the two while tracing.
"""

from digits_jax.ops import threefry
from digits_jax.ops.compilation import jit
from digits_jax.ops.conv import conv_general_dilated
from digits_jax.ops.initializers import KERNEL_INITS
from digits_jax.ops.kernels import KERNELS, using
from digits_jax.ops.layers import Affine, BatchNorm, Conv, Dense, compute, dot_general, max_pool_2x2
from digits_jax.ops.warps import INTERPOLATIONS, random_affine, random_displacements, sample, warp

__all__ = [
    "INTERPOLATIONS", "KERNELS", "KERNEL_INITS", "Affine", "BatchNorm", "Conv", "Dense", "compute",
    "conv_general_dilated", "dot_general", "jit", "max_pool_2x2", "random_affine", "random_displacements", "sample",
    "threefry", "using", "warp",
]  # fmt: skip
