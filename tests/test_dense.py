"""The dense layer's product against XLA's own."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from digits_jax import ops

PLAIN = (((1,), (0,)), ((), ()))


@pytest.mark.parametrize("outputs", [1, 10, 15, 16, 40])
def test_value_and_gradients(outputs: int) -> None:
    x = jax.random.normal(jax.random.key(0), (12, 30))
    kernel = jax.random.normal(jax.random.key(1), (30, outputs))
    results = []
    for function in (ops.dot_general, lax.dot_general):
        y, vjp = jax.vjp(lambda x, k, function=function: function(x, k, PLAIN), x, kernel)
        results.append((y, *vjp(jnp.cos(y))))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_under_vmap() -> None:
    x = jax.random.normal(jax.random.key(0), (3, 12, 30))
    kernel = jax.random.normal(jax.random.key(1), (3, 30, 10))

    def gradient(function: Any) -> jax.Array:
        return jax.vmap(jax.grad(lambda k, x: jnp.square(function(x, k, PLAIN)).sum()))(kernel, x)

    np.testing.assert_allclose(gradient(ops.dot_general), gradient(lax.dot_general), rtol=1e-4, atol=1e-4)


def test_other_products_are_left_to_lax() -> None:
    x, kernel = jnp.ones((2, 3, 30)), jax.random.normal(jax.random.key(1), (30, 10))
    numbers = (((2,), (0,)), ((), ()))
    np.testing.assert_array_equal(ops.dot_general(x, kernel, numbers), lax.dot_general(x, kernel, numbers))


def test_the_kernels_gradient_is_computed_row_by_row() -> None:
    gradient = jax.grad(lambda k, x: jnp.square(ops.dot_general(x, k, PLAIN)).sum())
    program = jax.jit(gradient).lower(jnp.ones((784, 10)), jnp.ones((64, 784))).compile().as_text()
    assert "f32[16,784]" in program


def test_it_goes_with_the_convolution() -> None:
    x, kernel = jnp.ones((12, 30)), jnp.ones((30, 10))
    programs = {}
    for name in ops.KERNELS:
        traced = ops.using(name)(lambda *args: ops.dot_general(*args, PLAIN))
        programs[name] = str(jax.make_jaxpr(traced)(x, kernel))
    assert programs["auto"] == programs["matmul"] == programs["winograd"]  # on a CPU
    assert programs["lax"] == str(jax.make_jaxpr(lambda *args: lax.dot_general(*args, PLAIN))(x, kernel))
    assert programs["lax"] != programs["auto"]


def test_hessian_vector_products_and_forward_mode() -> None:
    x = jax.random.normal(jax.random.key(0), (12, 30))
    kernel, v = jax.random.normal(jax.random.key(1), (2, 30, 10))

    def product(function: Any) -> jax.Array:
        gradient = jax.grad(lambda k: jnp.sin(function(x, k, PLAIN)).sum())
        return jax.jvp(gradient, (kernel,), (v,))[1]

    np.testing.assert_allclose(product(ops.dot_general), product(lax.dot_general), rtol=1e-4, atol=1e-4)
    for transform in (lambda f: f, jax.jit):
        with pytest.raises(TypeError, match=r'ops.using\("lax"\), or set config.execution.kernels=lax'):
            transform(lambda k: jax.jvp(lambda k: ops.dot_general(x, k, PLAIN), (k,), (v,)))(kernel)
        with ops.using("lax"):
            forward = transform(lambda k: jax.jvp(lambda k: ops.dot_general(x, k, PLAIN), (k,), (v,))[1])(kernel)
        np.testing.assert_allclose(forward, x @ v, rtol=1e-5, atol=1e-5)
