"""The models: sizes, normalisation inside, dependence between examples, pooling."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.flatten_util import ravel_pytree
from ml_collections import ConfigDict, FrozenConfigDict

from digits_jax import models, ops
from digits_jax.config import get_config, load_config
from digits_jax.errors import UserError
from digits_jax.models import normalize
from digits_jax.studies.benchmark.tutorial_flax import TutorialCNN


def create(config: ConfigDict) -> nn.Module:
    config.model.mean, config.model.std = 33.0, 78.0
    return models.create_model(config.model, num_classes=10)


def init(model: nn.Module, seed: int = 0) -> dict:
    return jax.jit(model.init, static_argnames="train")(jax.random.key(seed), jnp.zeros((1, 28, 28, 1)), train=False)


@pytest.fixture
def thin_config() -> ConfigDict:
    config = get_config()
    config.model.widths = ((2, 3), (4,))
    config.model.hidden_width = 6
    return config


IMAGES = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), np.uint8)


@pytest.mark.parametrize(
    ("name", "count"),
    [("linear", 7_850), ("vgg", 594_922), ("dropout", 594_922), ("bn_dropout", 596_330), ("tiny", 7_538)],
)
def test_parameter_count(name: str, count: int) -> None:
    config = load_config(name)
    params = jax.eval_shape(lambda: init(create(config)))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_running_statistics_of_bn_dropout() -> None:
    config = load_config("bn_dropout")
    stats = jax.eval_shape(lambda: init(create(config)))["batch_stats"]
    assert sorted(leaf.shape for leaf in jax.tree.leaves(stats)) == sorted([(32,), (32,), (64,), (64,), (512,)] * 2)


def test_initial_weights_are_glorot_uniform_and_biases_zero() -> None:
    params = init(create(get_config()))["params"]
    for kernel, fans in [(params["Dense_0"]["kernel"], 1024 + 512), (params["Conv_1"]["kernel"], 9 * (32 + 32))]:
        limit = (6 / fans) ** 0.5
        assert abs(kernel).max() <= limit
        assert abs(kernel).max() > 0.99 * limit
        assert float(kernel.std()) == pytest.approx(limit / 3**0.5, rel=0.05)
    assert all((layer["bias"] == 0).all() for layer in params.values())


def test_keras1_weights_start_smaller_in_convolutions() -> None:
    config = load_config("vgg:as_logged")
    params = init(create(config))["params"]
    limits = {
        "Conv_0": 32**-0.5,
        "Conv_1": 1 / 32,
        "Conv_2": 2048**-0.5,
        "Conv_3": 1 / 64,
        "Dense_0": 1 / 16,
    }
    for layer, limit in limits.items():
        kernel = params[layer]["kernel"]
        assert abs(kernel).max() <= limit
        assert float(kernel.std()) == pytest.approx(limit / 3**0.5, rel=0.1)


def test_linear_is_softmax_regression_on_normalised_pixels() -> None:
    config = get_config()
    config.model.name = "linear"
    model = create(config)
    variables = init(model)
    kernel = variables["params"]["Dense_0"]["kernel"]
    expected = ((IMAGES.astype(np.float64) - 33) / 78).reshape(5, 784) @ np.asarray(kernel, np.float64)
    np.testing.assert_allclose(model.apply(variables, IMAGES, train=False), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("place", ["none", "before", "after"])
def test_in_evaluation_an_image_is_scored_alone(thin_config: ConfigDict, place: str) -> None:
    thin_config.model.batch_norm = place
    thin_config.model.hidden_dropout = 0.5
    model = create(thin_config)
    variables = init(model)
    score = jax.jit(partial(model.apply, variables, train=False))
    together = score(IMAGES)
    alone = jnp.concatenate([score(IMAGES[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("place", "depends"), [("none", False), ("before", True), ("after", True)])
def test_in_training_only_batch_norm_mixes_images(thin_config: ConfigDict, place: str, depends: bool) -> None:
    thin_config.model.batch_norm = place
    model = create(thin_config)
    variables = init(model)

    def first_logits(images: np.ndarray) -> np.ndarray:
        return np.asarray(model.apply(variables, images, train=True, mutable=["batch_stats"])[0][0])

    other = IMAGES.copy()
    other[1:] = 255 - other[1:]
    difference = np.abs(first_logits(IMAGES) - first_logits(other)).max()
    assert (difference > 1e-3) == depends


@pytest.mark.parametrize(("place", "sign"), [("before", -1), ("after", 0)])
def test_place_of_batch_norm(thin_config: ConfigDict, place: str, sign: int) -> None:
    thin_config.model.batch_norm = place
    model = create(thin_config)
    variables = init(model)
    assert sum(layer.startswith("BatchNorm") for layer in variables["params"]) == 4  # three convolutions, one dense
    # What a normalisation sees has negative values before a ReLU, and none after it.
    seen = {}

    def record(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, nn.BatchNorm):
            seen[context.module.name] = np.sign(args[0].min())
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        model.apply(variables, IMAGES, train=True, mutable=["batch_stats"])
    assert list(seen.values()) == [sign] * 4


@pytest.mark.parametrize(
    ("change", "random"),
    [
        ({"block_dropout": (0.5, 0.0)}, True),
        ({"block_dropout": (0.0, 0.5)}, True),
        ({"hidden_dropout": 0.5}, True),
        ({}, False),
    ],
)
def test_dropout_acts_where_it_is_declared(thin_config: ConfigDict, change: dict, random: bool) -> None:
    thin_config.model.update(change)
    model = create(thin_config)
    variables = init(model)
    logits = [model.apply(variables, IMAGES, train=True, rngs={"dropout": jax.random.key(i)}) for i in (0, 0, 1)]
    assert (logits[0] == logits[1]).all()
    assert bool((logits[0] != logits[2]).any()) == random


@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (1, 5, 7, 2), (3, 2, 3, 1)])
def test_max_pool_is_flax_max_pool_with_its_gradient(shape: tuple[int, ...]) -> None:
    x = jnp.asarray(np.random.default_rng(0).permutation(np.prod(shape)).reshape(shape), jnp.float32)
    weights = jax.random.normal(jax.random.key(0), ops.max_pool_2x2(x).shape)
    ours = jax.value_and_grad(lambda x: (ops.max_pool_2x2(x) * weights).sum())(x)
    theirs = jax.value_and_grad(lambda x: (nn.max_pool(x, (2, 2), (2, 2)) * weights).sum())(x)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6)
    np.testing.assert_array_equal(ours[1], theirs[1])


def test_bfloat16_keeps_parameters_and_logits_in_float32(thin_config: ConfigDict) -> None:
    thin_config.model.dtype = "bfloat16"
    thin_config.model.batch_norm = "after"
    model = create(thin_config)
    variables = init(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert model.apply(variables, IMAGES, train=False).dtype == jnp.float32
    captured = model.apply(variables, IMAGES, train=False, capture_intermediates=True)[1]["intermediates"]
    assert captured["Conv_0"]["__call__"][0].dtype == jnp.bfloat16


def test_image_too_small_for_the_convolutions() -> None:
    config = get_config()
    models.check(config.model, image_shape=(16, 16, 1))
    with pytest.raises(UserError, match=r"config.model.widths is .* leave nothing of an image of 15x28"):
        models.check(config.model, image_shape=(15, 28, 1))


@pytest.mark.parametrize(
    ("negative", "train"),
    [(True, True), *(pytest.param(*case, marks=pytest.mark.slow) for case in [(False, True), (True, False)])],
)
def test_folded_batch_norm_is_that_of_flax(thin_config: ConfigDict, negative: bool, train: bool) -> None:
    """Against Flax's layers on `lax.conv_general_dilated`: logits, gradients, statistics; also of negative scales."""
    thin_config.model.update(batch_norm="after", widths=((4, 4), (4, 8)))
    variables = init(create(thin_config))
    keys = iter(jax.random.split(jax.random.key(5), 100))
    variables = jax.tree.map(lambda x: x + 0.1 * jax.random.uniform(next(keys), x.shape), variables)
    if negative:
        for name in ("BatchNorm_0", "BatchNorm_1", "BatchNorm_3"):
            scale = variables["params"][name]["scale"]
            variables["params"][name]["scale"] = scale.at[::2].multiply(-1)
    model = create(thin_config)
    fields = ("widths", "hidden_width", "batch_norm", "bn_momentum", "bn_epsilon", "block_dropout", "hidden_dropout")
    plain = TutorialCNN(FrozenConfigDict({name: getattr(model, name) for name in fields}))

    def results(model: nn.Module, images: jax.Array) -> Any:
        def loss(params: Any) -> Any:
            both = {"params": params, "batch_stats": variables["batch_stats"]}
            logits, updates = model.apply(both, images, train=train, mutable=["batch_stats"])
            return jnp.square(jax.nn.log_softmax(logits)).mean(), (logits, updates)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])

    images = jnp.asarray(IMAGES)
    expected = results(plain, normalize(images, 33.0, 78.0))
    for a, b in zip(results(model, images), expected, strict=True):  # loss, logits and statistics; gradients
        a, b = ravel_pytree(a)[0], ravel_pytree(b)[0]
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * float(np.abs(b).max()))
