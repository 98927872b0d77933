"""The convolution by matrix products against XLA's own."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from digits_jax import ops
from digits_jax.ops.winograd import tile_size

NHWC = ("NHWC", "HWIO", "NHWC")


def reference(x: jax.Array, k: jax.Array, **kwargs: Any) -> jax.Array:
    return lax.conv_general_dilated(x, k, (1, 1), "VALID", dimension_numbers=NHWC, **kwargs)


def ours(x: jax.Array, k: jax.Array, *, name: str = "winograd") -> jax.Array:
    with ops.using(name):
        return ops.conv_general_dilated(x, k, (1, 1), "VALID", dimension_numbers=NHWC)


@partial(jax.jit, static_argnums=0)
def value_and_gradients(function: Any, x: jax.Array, k: jax.Array) -> tuple[jax.Array, ...]:
    y, vjp = jax.vjp(function, x, k)
    return (y, *vjp(jax.random.normal(jax.random.key(2), y.shape)))


def assert_close(a: Any, b: Any) -> None:
    for x, y in zip(a, b, strict=True):
        assert np.abs(x - y).max() <= 1e-4 * max(1.0, float(np.abs(y).max()))


@pytest.mark.slow
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


@pytest.mark.slow
@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 5),
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    tile=st.sampled_from([2, 4, 5]),
    channels=st.tuples(st.integers(8, 40), st.integers(8, 40)),
)
def test_winograd(batch: int, size: Any, tile: int, channels: Any) -> None:
    x = jax.random.normal(jax.random.key(0), (batch, size[0] * tile + 2, size[1] * tile + 2, channels[0]))
    k = jax.random.normal(jax.random.key(1), (3, 3, *channels))
    assert tile_size(x.shape, k.shape) is not None
    assert_close(value_and_gradients(ours, x, k), value_and_gradients(reference, x, k))


@pytest.mark.parametrize(
    ("image_shape", "kernel_shape", "expected"),
    [
        ((64, 26, 26, 32), (3, 3, 32, 32), 4),
        ((64, 12, 12, 32), (3, 3, 32, 64), 5),
        ((64, 8, 8, 32), (3, 3, 32, 64), 2),
        ((64, 10, 6, 64), (3, 3, 64, 64), 4),
        ((64, 10, 8, 64), (3, 3, 64, 64), 2),
        ((64, 10, 9, 64), (3, 3, 64, 64), None),
        ((64, 2, 2, 64), (3, 3, 64, 64), None),
        ((64, 10, 10, 64), (5, 5, 64, 64), None),
    ],
)
def test_tiles_cover_the_output_exactly(image_shape: Any, kernel_shape: Any, expected: int | None) -> None:
    assert tile_size(image_shape, kernel_shape) == expected


@pytest.mark.parametrize("name", ["winograd", "matmul"])
def test_the_networks_largest_product(name: str) -> None:
    x = jax.random.normal(jax.random.key(0), (8, 10, 10, 128))  # K = 9 x 128 = 1,152
    k = jax.random.normal(jax.random.key(1), (3, 3, 128, 64))
    function = partial(ours, name=name)
    assert_close(value_and_gradients(function, x, k), value_and_gradients(reference, x, k))


def test_winograd_saves_multiplications() -> None:
    x, k = jnp.ones((64, 26, 26, 32)), jnp.ones((3, 3, 32, 32))
    cost = {
        name: jax.jit(partial(ours, name=name)).lower(x, k).cost_analysis()["flops"] for name in ("winograd", "matmul")
    }
    assert cost["winograd"] < 0.5 * cost["matmul"]


@pytest.mark.slow
@pytest.mark.parametrize("channels", [(2, 5), (8, 9)])
def test_under_vmap_and_scan(channels: tuple[int, int]) -> None:
    x = jax.random.normal(jax.random.key(0), (3, 4, 6, 6, channels[0]))
    k = jax.random.normal(jax.random.key(1), (3, 3, 3, *channels))
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
    with ops.using("winograd"):
        y = ops.conv_general_dilated(x, k, strides, padding, **options)
    np.testing.assert_array_equal(y, lax.conv_general_dilated(x, k, strides, padding, **options))


def test_the_selected_kernels_are_traced() -> None:
    x, k = jnp.ones((1, 6, 6, 8)), jnp.ones((3, 3, 8, 8))
    programs = {name: str(jax.make_jaxpr(partial(ours, name=name))(x, k)) for name in ops.KERNELS}
    assert programs["auto"] == programs["winograd"]  # tests run on a CPU
    assert len(set(programs.values())) == 3
    assert programs["lax"] == str(jax.make_jaxpr(reference)(x, k))


def test_the_first_layer_computes_no_gradient_of_the_images() -> None:
    x, k = jnp.ones((4, 8, 8, 1)), jnp.ones((3, 3, 1, 5))
    cost = []
    for argnums in (1, (0, 1)):
        gradient = jax.jit(jax.grad(lambda x, k: (ours(x, k) ** 2).sum(), argnums=argnums))
        cost.append(gradient.lower(x, k).compile().as_text().count("dot("))
    assert cost[0] < cost[1]


@pytest.mark.parametrize("shape", [(6, 6, 8, 8), (6, 6, 4, 5), (6, 6, 1, 5)])  # Winograd, rows, direct
def test_hessian_vector_products(shape: tuple[int, ...]) -> None:
    x = jax.random.normal(jax.random.key(0), (2, *shape[:3]))
    k, v = jax.random.normal(jax.random.key(1), (2, 3, 3, *shape[2:]))

    def product(function: Any) -> jax.Array:
        gradient = jax.grad(lambda k: (function(x, k) ** 3).sum())
        return jax.jit(lambda k, v: jax.jvp(gradient, (k,), (v,))[1])(k, v)

    assert_close([product(ours)], [product(reference)])


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
@pytest.mark.parametrize("channels", [(8, 8), (4, 5), (1, 5)])
def test_forward_mode_names_the_way_out(channels: tuple[int, int], transform: Any) -> None:
    x, k = jnp.ones((2, 6, 6, channels[0])), jnp.ones((3, 3, *channels))
    for name in ("winograd", "matmul"):
        with pytest.raises(TypeError, match=r'ops.using\("lax"\), or set config.execution.kernels=lax'):
            transform(lambda x, k, name=name: jax.jvp(partial(ours, name=name), (x, k), (x, k)))(x, k)
    with pytest.raises(TypeError, match="forward-mode"):
        transform(jax.jacfwd(lambda k: ours(x, k).sum()))(k)
    y, dy = transform(lambda x, k: jax.jvp(partial(ours, name="lax"), (x, k), (x, k)))(x, k)
    np.testing.assert_allclose(dy, 2 * y)


def test_max_pool_has_a_forward_mode() -> None:
    x, dx = jax.random.normal(jax.random.key(0), (2, 2, 4, 6, 3))
    y, dy = jax.jvp(ops.max_pool_2x2, (x,), (dx,))
    np.testing.assert_allclose(dy, jax.jvp(lambda x: nn.max_pool(x, (2, 2), (2, 2)), (x,), (dx,))[1])
    assert y.shape == (2, 2, 3, 3)
