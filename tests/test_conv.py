"""The convolution by matrix products against XLA's own."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from digits_jax import conv

NHWC = ("NHWC", "HWIO", "NHWC")


def reference(x: jax.Array, k: jax.Array, **kwargs: Any) -> jax.Array:
    return lax.conv_general_dilated(x, k, (1, 1), "VALID", dimension_numbers=NHWC, **kwargs)


def ours(x: jax.Array, k: jax.Array) -> jax.Array:
    return conv.conv_general_dilated(x, k, (1, 1), "VALID", dimension_numbers=NHWC)


@partial(jax.jit, static_argnums=0)
def value_and_gradients(function: Any, x: jax.Array, k: jax.Array) -> tuple[jax.Array, ...]:
    y, vjp = jax.vjp(function, x, k)
    return (y, *vjp(jax.random.normal(jax.random.key(2), y.shape)))


def assert_close(a: Any, b: Any) -> None:
    for x, y in zip(a, b, strict=True):
        assert np.abs(x - y).max() <= 1e-4 * max(1.0, float(np.abs(y).max()))


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 13),
    size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    channels=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_value_and_gradients(batch: int, size: Any, kernel: Any, channels: Any) -> None:
    x = jax.random.normal(jax.random.key(0), (batch, *size, channels[0]))
    k = jax.random.normal(jax.random.key(1), (*kernel, *channels))
    assert_close(value_and_gradients(ours, x, k), value_and_gradients(reference, x, k))


def test_the_networks_largest_product() -> None:
    x = jax.random.normal(jax.random.key(0), (8, 10, 10, 128))  # K = 9 x 128 = 1,152
    k = jax.random.normal(jax.random.key(1), (3, 3, 128, 64))
    assert_close(value_and_gradients(ours, x, k), value_and_gradients(reference, x, k))


def test_under_vmap_and_scan() -> None:
    x = jax.random.normal(jax.random.key(0), (3, 4, 6, 6, 2))
    k = jax.random.normal(jax.random.key(1), (3, 3, 3, 2, 5))
    expected = [value_and_gradients(reference, *pair) for pair in zip(x, k, strict=True)]
    mapped = jax.vmap(lambda x, k: value_and_gradients(ours, x, k))(x, k)
    _, scanned = lax.scan(lambda _, pair: (None, value_and_gradients(ours, *pair)), None, (x, k))
    for i in range(3):
        assert_close([a[i] for a in mapped], expected[i])
        assert_close([a[i] for a in scanned], expected[i])


@pytest.mark.parametrize(
    ("strides", "padding", "options"),
    [
        ((2, 1), "VALID", {}),
        ((1, 1), "SAME", {}),
        ((1, 1), [(1, 0), (0, 2)], {}),
        ((1, 1), "VALID", {"rhs_dilation": (2, 2)}),
        ((1, 1), [(0, 0), (0, 0)], {"lhs_dilation": (1, 2)}),
        ((1, 1), "VALID", {"feature_group_count": 2}),
        ((1, 1), "VALID", {"dimension_numbers": ("NWHC", "HWIO", "NHWC")}),
    ],
)
def test_what_it_does_not_do_is_left_to_lax(strides: Any, padding: Any, options: dict) -> None:
    x = jax.random.normal(jax.random.key(0), (2, 7, 8, 4))
    k = jax.random.normal(jax.random.key(1), (3, 3, 4 // options.get("feature_group_count", 1), 6))
    options = {"dimension_numbers": NHWC, **options}
    y = conv.conv_general_dilated(x, k, strides, padding, **options)
    np.testing.assert_array_equal(y, lax.conv_general_dilated(x, k, strides, padding, **options))


def test_which_implementation() -> None:
    assert conv.implementation("auto") is conv.conv_general_dilated  # tests run on a CPU
    assert conv.implementation("matmul") is conv.conv_general_dilated
    assert conv.implementation("lax") is lax.conv_general_dilated


def test_the_first_layer_computes_no_gradient_of_the_images() -> None:
    x, k = jnp.ones((4, 8, 8, 1)), jnp.ones((3, 3, 1, 5))
    cost = []
    for argnums in (1, (0, 1)):
        gradient = jax.jit(jax.grad(lambda x, k: (ours(x, k) ** 2).sum(), argnums=argnums))
        cost.append(gradient.lower(x, k).compile().as_text().count("dot("))
    assert cost[0] < cost[1]
