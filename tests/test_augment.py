"""The warps against Keras's own recipe, written with numpy and scipy as Keras writes it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from digits_jax import augment, ops
from digits_jax.config import get_config
from digits_jax.data import Examples
from digits_jax.errors import ConfigError

POST: dict[str, Any] = {"rotation": 8.0, "height_shift": 0.08, "width_shift": 0.08, "shear": 0.3, "zoom": 0.08}
NONE = dict.fromkeys(POST, 0.0)
IMAGES = np.random.default_rng(0).integers(0, 256, (1000, 28, 28, 1), np.uint8)
BATCH = Examples(IMAGES, np.arange(1000) % 10)


def keras_matrix(theta: float, tx: float, ty: float, shear: float, zx: float, zy: float, size: int = 28) -> np.ndarray:
    """`random_transform` of Keras 1, with its names."""
    rotation = np.array([[np.cos(theta), -np.sin(theta), 0], [np.sin(theta), np.cos(theta), 0], [0, 0, 1]])
    translation = np.array([[1, 0, tx], [0, 1, ty], [0, 0, 1]])
    shearing = np.array([[1, -np.sin(shear), 0], [0, np.cos(shear), 0], [0, 0, 1]])
    zooming = np.diag([zx, zy, 1])
    center = size / 2 + 0.5
    offset = np.array([[1, 0, center], [0, 1, center], [0, 0, 1]])
    reset = np.array([[1, 0, -center], [0, 1, -center], [0, 0, 1]])
    return (offset @ rotation @ translation @ shearing @ zooming @ reset)[:2]


def draw(count: int = 1000, **ranges: float) -> np.ndarray:
    return np.asarray(ops.random_affine(jax.random.key(0), count, image_shape=(28, 28), **{**NONE, **ranges}))


@pytest.mark.parametrize(("interpolation", "order"), [("nearest", 0), ("bilinear", 1)])
def test_a_thousand_warps_agree_with_scipy(interpolation: str, order: int) -> None:
    matrices = draw(**POST)
    warp = jax.jit(ops.warp, static_argnames="interpolation")
    ours = np.asarray(warp(IMAGES, matrices, interpolation=interpolation))
    theirs = np.stack(
        [
            ndimage.affine_transform(image[..., 0].astype(np.float64), m[:, :2], m[:, 2], order=order, mode="nearest")
            for image, m in zip(IMAGES, matrices.astype(np.float64), strict=True)
        ]
    )[..., None]
    if order == 1:
        assert np.abs(ours - theirs).max() <= 1e-3 * 255
        return
    different = np.argwhere(ours != theirs)
    assert len(different) <= 1e-3 * ours.size
    for image, row, column, _ in different:  # float32 rounds a half-way point to the other side
        source = matrices[image].astype(np.float64) @ [row, column, 1]
        assert np.abs(np.abs(source - np.floor(source)) - 0.5).min() < 1e-4


def test_the_matrix_is_keras_matrix() -> None:
    def only(**ranges: float) -> tuple[np.ndarray, np.ndarray]:
        """Matrices and the draws in [-1, 1] behind them, in the order of the source."""
        return draw(5, **ranges), np.asarray(jax.random.uniform(jax.random.key(0), (5, 6), minval=-1.0, maxval=1.0))

    matrices, draws = only(**POST)
    for matrix, (theta, shear, shift_h, shift_w, zoom_h, zoom_w) in zip(matrices, draws, strict=True):
        shifts, zooms = 0.08 * 28 * np.array([shift_h, shift_w]), 1 + 0.08 * np.array([zoom_h, zoom_w])
        expected = keras_matrix(np.deg2rad(8) * theta, *shifts, 0.3 * shear, *zooms)
        np.testing.assert_allclose(matrix, expected, atol=2e-5)


@pytest.mark.parametrize(
    ("ranges", "of_matrix", "limit"),
    [
        ({"rotation": 8.0}, lambda m: np.rad2deg(np.arctan2(m[:, 1, 0], m[:, 0, 0])), 8.0),
        ({"height_shift": 0.1}, lambda m: m[:, 0, 2], 2.8),
        ({"width_shift": 0.1}, lambda m: m[:, 1, 2], 2.8),
        ({"shear": 0.3}, lambda m: -np.arcsin(m[:, 0, 1]), 0.3),
        ({"zoom": 0.08}, lambda m: m[:, 0, 0] - 1, 0.08),
        ({"zoom": 0.08}, lambda m: m[:, 1, 1] - 1, 0.08),
    ],
)
def test_each_range_is_drawn_uniformly(ranges: dict, of_matrix: Any, limit: float) -> None:
    values = of_matrix(draw(4000, **ranges)) / limit
    assert np.abs(values).max() <= 1 + 1e-4
    counts, _ = np.histogram(values, bins=8, range=(-1, 1))
    assert counts.min() > 420  # 500 expected in each bin
    assert counts.max() < 580


def test_known_warps() -> None:
    image = jnp.arange(16.0).reshape(1, 4, 4, 1)

    def move(matrix: list, interpolation: str = "nearest") -> list:
        return ops.warp(image, jnp.array([matrix]), interpolation=interpolation)[0, :, :, 0].tolist()

    assert move([[1, 0, 0], [0, 1, 0]]) == image[0, :, :, 0].tolist()
    assert move([[1, 0, 1], [0, 1, 0]])[0] == [4, 5, 6, 7]
    assert move([[1, 0, 1], [0, 1, 0]])[3] == [12, 13, 14, 15]  # the edge is repeated
    assert move([[1, 0, 0], [0, 1, -1]])[0] == [0, 0, 1, 2]
    assert move([[1, 0, 0], [0, 1, 0.5]])[0] == [1, 2, 3, 3]  # half-way points go up
    assert move([[1, 0, 0.5], [0, 1, 0]])[0] == [4, 5, 6, 7]
    assert move([[1, 0, 0], [0, 1, 0.5]], "bilinear")[0] == [0.5, 1.5, 2.5, 3]


def test_without_ranges_images_pass_untouched() -> None:
    config = get_config().augment
    assert augment.create_augment(config, 10)(jax.random.key(0), BATCH) is BATCH


def test_test_images_have_ranges_of_their_own() -> None:
    config = get_config().augment
    key = jax.random.key(0)
    config.test_ranges = (8.0, 0.08, 0.08, 0.3, 0.08)
    warped = augment.create_test_augment(config, 10)(key, BATCH).images
    assert augment.create_augment(config, 10)(key, BATCH) is BATCH
    config.update(POST, test_ranges=())
    assert (warped == augment.create_augment(config, 10)(key, BATCH).images).all()
    assert (warped == augment.create_test_augment(config, 10)(key, BATCH).images).all()


def test_each_image_and_each_key_has_its_own_warp() -> None:
    config = get_config().augment
    config.update(POST)
    same = Examples(jnp.broadcast_to(IMAGES[:1], (4, 28, 28, 1)), jnp.zeros(4, int))
    warped = [augment.create_augment(config, 10)(jax.random.key(seed), same).images for seed in (0, 0, 1)]
    assert (warped[0] == warped[1]).all()
    assert (warped[0] != warped[2]).any()
    assert (warped[0][0] != warped[0][1]).any()
    assert warped[0].dtype == jnp.float32


def augmented(name: str, **arguments: float) -> np.ndarray:
    config = get_config().augment
    config.update(names=(name,), **arguments)
    return np.asarray(augment.create_augment(config, 10)(jax.random.key(3), BATCH).images)


def test_elastic_distortions_are_small_smooth_and_each_images_own() -> None:
    shifts = np.asarray(ops.random_displacements(jax.random.key(0), 200, image_shape=(28, 28), alpha=34.0, sigma=4.0))
    inner = shifts[:, :, 10:18, 10:18]  # away from the edges, beyond which nothing is smoothed in
    # The deviation of uniform noise, 3**-0.5, times that of its Gaussian mean over pixels, 1 / (2 sigma sqrt(pi)).
    assert inner.std() == pytest.approx(34 * 3**-0.5 / (2 * 4 * np.pi**0.5), rel=0.1)
    steps = np.abs(np.diff(inner, axis=2))
    assert np.quantile(steps, 0.999) < 1  # neighbors stay in order: hardly anything is folded
    warped = augmented("elastic")
    assert warped.shape == IMAGES.shape
    assert warped.min() >= 0 <= warped.max() <= 255
    assert np.abs(warped[0] - IMAGES[0]).mean() > 10
    np.testing.assert_allclose(augmented("elastic", elastic_alpha=0.0), IMAGES)


def test_erasing_blackens_one_rectangle_in_a_fraction_of_the_images() -> None:
    white = BATCH._replace(images=np.full_like(IMAGES, 255))
    config = get_config().augment
    config.update(names=("erasing",), erasing_probability=0.5, erasing_area=0.3)
    images = np.asarray(augment.create_augment(config, 10)(jax.random.key(0), white).images)[..., 0]
    erased = images == 0
    is_erased = erased.any((1, 2))
    assert is_erased.mean() == pytest.approx(0.5, abs=0.06)
    assert erased.mean((1, 2)).max() < 0.36  # 0.3, and the rounding of two sides
    for mask in erased[is_erased][:50]:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask.sum() == len(rows) * len(columns) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)


def test_augmentations_follow_each_other_with_their_own_random_numbers() -> None:
    config = get_config().augment
    config.update(POST, names=("affine", "erasing"))
    both = augment.create_augment(config, 10)(jax.random.key(3), BATCH).images
    warped = augmented("affine", **POST)
    kept = np.asarray(both) != 0
    assert (np.asarray(both)[kept] == warped[kept]).all()
    assert (np.asarray(both) != warped).any()


def test_augmentations_that_change_labels_are_refused_for_test_images() -> None:
    config = get_config().augment
    augment.AUGMENTATIONS["relabel"] = lambda: lambda key, batch: batch._replace(labels=batch.labels + 1)
    try:
        config.names = ("relabel",)
        with pytest.raises(ConfigError, match=r"^config.augment.test is True: expected False, as .* changes labels$"):
            augment.create_test_augment(config, 10)(jax.random.key(0), BATCH)
    finally:
        del augment.AUGMENTATIONS["relabel"]
