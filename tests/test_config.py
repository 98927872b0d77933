"""Each mistake in a config is one line that names the field; resolving a config; comparing two."""

import json
import math
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from digits_jax import config as config_lib
from digits_jax.config import get_config
from digits_jax.data import Dataset
from digits_jax.errors import ConfigError, UserError
from digits_jax.runs import identity
from digits_jax.runs.identity import differences_to_recorded, from_recorded


def change(field: str, value: Any) -> ConfigDict:
    config = get_config()
    with config.ignore_type():  # as a tuple given on the command line, which ml_collections does not check
        config.update_from_flattened_dict({field: value})
    return config


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("seed", -1, "an integer from 0 to"),
        ("seed", 2**32, "an integer from 0 to"),
        ("batch_size", 0, "an integer >= 1"),
        ("batch_size", True, "an integer >= 1"),
        ("execution.steps_per_call", 0, "an integer >= 1"),
        ("eval_batch_size", 0, "an integer >= 1"),
        ("learning_rates", (0.01, 0.0, 0.01), "numbers > 0"),
        ("learning_rates", (0.01, -0.1, 0.01), "numbers > 0"),
        ("learning_rates", (0.01, "a", 0.01), "numbers > 0"),
        ("learning_rates", (0.01, float("inf"), 0.01), "numbers > 0"),
        ("learning_rates", (), "numbers > 0"),
        ("epochs", (1, 0, 5), "integers >= 1"),
        ("epochs", (1, 2.5, 5), "integers >= 1"),
        ("epochs", (1, 5), "as many as learning_rates"),
        ("schedule.name", "steps", "one of piecewise_constant, cosine, linear, one_cycle"),
        ("optimizer.name", "sdg", "one of sgd, nesterov, adam, adamw, lamb, lion, muon, adafactor, rmsprop"),
        ("optimizer.momentum", 1.0, r"a number in \[0, 1\)"),
        ("optimizer.b1", 0.9, "None: sgd takes momentum, nesterov, weight_decay"),
        ("optimizer.clip_norm", 0.0, "a number > 0"),
        ("optimizer.accumulate_steps", 0, "an integer >= 1"),
        ("optimizer.decayed", "biases", "one of kernels, all"),
        ("loss.name", "mse", "one of cross_entropy"),
        ("average_decay", 1.0, r"a number in \[0, 1\)"),
        ("test_time_augmentation", "two", "one of none, shifts"),
        ("loss.label_smoothing", 1.0, r"a number in \[0, 1\)"),
        ("dataset.name", "../mnist", "a name, such as vgg"),
        ("early_stopping_epochs", -1, "an integer >= 0"),
        ("dataset.train_examples", 0, "an integer >= 1"),
        ("dataset.validation_examples", -1, "an integer >= 0"),
        ("execution.images_on", "disk", "one of device, host"),
        ("augment.rotation", -1.0, r"a number in \[0, 180\]"),
        ("augment.height_shift", 1.5, r"a number in \[0, 1\]"),
        ("augment.width_shift", -0.1, r"a number in \[0, 1\]"),
        ("augment.shear", math.pi / 2, r"a number in \[0, 1.57"),
        ("augment.zoom", 1.0, r"a number in \[0, 1\)"),
        ("augment.names", ("elastics",), "none or several of affine, elastic, erasing"),
        ("augment.elastic_alpha", 1.0, "None: affine takes rotation, height_shift, width_shift, shear, zoom"),
        ("metrics", ("norm",), "none or several of gradient_norm, update_norm, parameter_norm"),
        ("callbacks", ("print",), "none or several of nothing: none is registered"),
        ("freeze", (1,), "patterns, such as "),
        ("init_from", 3, "the directory of a run, such as runs/vgg/0123abcd"),
        ("augment.test_ranges", (8.0, 0.1), "none, or 5 numbers: rotation, height_shift, width_shift, shear, zoom"),
        ("augment.interpolation", "cubic", "one of nearest, bilinear"),
        ("model.name", "vgg16", "one of linear, vgg"),
        ("model.kernel_init", "xavier", "one of glorot_uniform"),
        ("model.dtype", "float16", "one of float32, bfloat16"),
        ("execution.kernels", "fft", "one of auto, winograd, matmul, lax"),
        ("model.mean", float("nan"), "a finite number"),
        ("model.std", 0.0, "a number > 0"),
        ("model.widths", (32, 64), "a tuple of channels per block"),
        ("model.widths", ((32,), ()), "a tuple of channels per block"),
        ("model.widths", ((32,), (0,)), "a tuple of channels per block"),
        ("model.hidden_width", 0, "an integer >= 1"),
        ("model.block_dropout", (0.5,), "2 of them, one per block"),
        ("model.block_dropout", (0.5, 1.0), r"a probability in \[0, 1\)"),
        ("model.block_dropout", (0.5, "x"), r"a probability in \[0, 1\)"),
        ("model.hidden_dropout", 1.0, r"a number in \[0, 1\)"),
        ("model.hidden_dropout", -0.1, r"a number in \[0, 1\)"),
        ("model.batch_norm", "yes", "one of none, before, after"),
        ("model.bn_momentum", 1.1, r"a number in \[0, 1\]"),
        ("schedule.warmup_fraction", 1.5, r"a number in \[0, 1\]"),
        ("test_stream", 1, "True or False"),
        ("dataset.data_dir", 3, "a path"),
        ("model.bn_epsilon", -1e-5, r"a number in \[0, inf\]"),
    ],
)
def test_out_of_bounds(field: str, value: Any, expected: str) -> None:
    with pytest.raises(UserError, match=expected) as error:
        config_lib.validate(change(field, value))
    message = str(error.value)
    assert message.startswith(f"config.{field} is {value!r}: expected ")
    assert "\n" not in message


def dataset(pixels: np.ndarray) -> Dataset:
    labels = np.zeros(len(pixels), np.uint8)
    return Dataset.from_arrays(pixels, labels, pixels, labels, name="x", num_classes=10)


PIXELS = np.random.default_rng(0).integers(0, 256, (64, 28, 28, 1), np.uint8)


def test_resolving_fills_in_what_the_data_say() -> None:
    config = get_config()
    config.dataset.source_dir = "/somewhere"
    resolved = config_lib.resolve(config, dataset(PIXELS))
    assert resolved.model.mean == pytest.approx(PIXELS.mean())
    assert resolved.model.std == pytest.approx(PIXELS.std())
    assert resolved.dataset.train_examples == 64
    assert resolved.dataset.source_dir is None
    assert config_lib.resolve(resolved, dataset(PIXELS)) == resolved
    assert config.model.mean is None


def test_resolving_keeps_what_was_given() -> None:
    config = change("model.mean", 0.0)
    config.model.std = 255.0
    resolved = config_lib.resolve(config, dataset(PIXELS))
    assert (resolved.model.mean, resolved.model.std) == (0.0, 255.0)


def test_resolving_finds_contradictions_with_the_data() -> None:
    with pytest.raises(UserError, match=r"config.batch_size is 65: expected at most the 64 training images"):
        config_lib.resolve(change("batch_size", 65), dataset(PIXELS))
    with pytest.raises(UserError, match=r"config.model.widths is .* leave nothing of an image of 8x8"):
        config_lib.resolve(get_config(), dataset(PIXELS[:, :8, :8]))
    with pytest.raises(UserError, match="all training pixels are equal"):
        config_lib.resolve(get_config(), dataset(np.full_like(PIXELS, 7)))


def test_the_hash_names_the_experiment_and_not_the_place() -> None:
    hashes = []
    for field, value in [("seed", 0), ("dataset.data_dir", "/x"), ("seed", 1), ("model.hidden_dropout", 0.1)]:
        hashes.append(identity.config_hash(config_lib.resolve(change(field, value), dataset(PIXELS))))
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_differences() -> None:
    a, b = {"x": 1, "y": {"z": 2, "same": 3}}, {"x": 1, "y": {"z": 5, "same": 3}, "new": 4}
    assert identity.differences(a, b) == [("new", None, 4), ("y.z", 2, 5)]


def test_a_recorded_config_comes_back(small_config: ConfigDict, small_dataset: Dataset) -> None:
    resolved = config_lib.resolve(small_config, small_dataset)
    content = json.loads(json.dumps(resolved.to_dict()))
    assert from_recorded(content) == resolved
    del content["test_stream"]  # declared after the run
    assert from_recorded(content) == resolved
    with pytest.raises(ConfigError, match=r"the recorded config does not fit: .*unknown field 'sede'"):
        from_recorded({**content, "sede": 1})


OLD_NAMES = {
    "steps_per_call": 7, "microbatch_size": 3, "seeds_at_once": 0, "test_views": "shifts", "schedule": "linear",
    "learning_rates": [0.1], "epochs": [2],
    "dataset": {"feed": "host"}, "model": {"conv": "lax", "bn_groups": 1},
}  # fmt: skip


def test_a_config_recorded_under_old_names_is_read(small_config: ConfigDict, small_dataset: Dataset) -> None:
    config = from_recorded(OLD_NAMES)
    assert config.execution.to_dict() == {
        "steps_per_call": 7, "microbatch_size": 3, "seeds_at_once": 0, "images_on": "host", "kernels": "lax",
    }  # fmt: skip
    assert (config.test_time_augmentation, config.schedule.name) == ("shifts", "linear")
    assert from_recorded({"test_views": "one"}).test_time_augmentation == "none"
    with pytest.raises(ConfigError, match=r"unknown field 'model.bn_groups'"):
        from_recorded({"model": {"bn_groups": 8}})


def test_fields_that_leave_the_bits_alone_are_no_part_of_the_hash() -> None:
    resolved = [config_lib.resolve(change(*field), dataset(PIXELS)) for field in (
        ("seed", 0), ("execution.steps_per_call", 3), ("execution.images_on", "host"), ("execution.seeds_at_once", 1),
        ("execution.kernels", "lax"), ("execution.microbatch_size", 8),
    )]  # fmt: skip
    hashes = [identity.config_hash(config) for config in resolved]
    assert len({*hashes[:4]}) == 1
    assert len({*hashes[3:]}) == 3
    differences = [
        differences_to_recorded(config, json.loads(json.dumps(resolved[0].to_dict()))) for config in resolved
    ]
    assert [len(rows) for rows in differences] == [0, 0, 0, 0, 1, 1]


def test_equal_values_are_one_experiment() -> None:
    hashes = set()
    for rates, ranges in [((1,), (8, 0, 0, 0, 0)), ((1.0,), (8.0, 0.0, 0.0, 0.0, 0.0))]:
        config = get_config()
        config.learning_rates, config.epochs, config.augment.test_ranges = rates, (1,), ranges
        hashes.add(identity.config_hash(config_lib.resolve(config, dataset(PIXELS))))
    assert len(hashes) == 1


def test_a_default_that_is_given_is_the_same_experiment() -> None:
    hashes = [
        identity.config_hash(config_lib.resolve(change(*field), dataset(PIXELS)))
        for field in [
            ("seed", 0),
            ("model.hidden_width", 512),
            ("optimizer.momentum", None),
            ("model.dtype", "float32"),
        ]
    ]
    assert len(set(hashes)) == 1


def test_an_argument_of_another_entry_is_an_error_and_not_a_second_experiment() -> None:
    config = change("model.name", "linear")
    config.model.hidden_width = 128
    with pytest.raises(
        ConfigError, match=r"^config.model.hidden_width is 128: expected None: linear takes mean, std, "
    ):
        config_lib.validate(config)
    recorded = {"model": {"name": "linear", "hidden_width": 128}}  # by an earlier version, without any effect
    assert from_recorded(recorded).model.hidden_width is None


def test_another_entry_drops_what_was_set_for_the_earlier_one() -> None:
    config = config_lib.load_config("fast")
    config_lib.override(config, {"model.name": "linear", "model.dtype": "bfloat16"})
    assert (config.model.widths, config.model.batch_norm, config.model.dtype) == (None, None, "bfloat16")
    config_lib.validate(config)
    config = config_lib.load_config("fast")
    config_lib.override(config, {"model.name": "linear", "model.hidden_width": 3})
    with pytest.raises(ConfigError, match="hidden_width is 3"):
        config_lib.validate(config)


def test_an_argument_without_a_default_has_to_be_given() -> None:
    table = config_lib.SECTIONS["loss"]
    table["needy"], table.arguments["needed"] = (lambda *, needed: needed), table.arguments["label_smoothing"]
    try:
        config = get_config()
        config.loss.name = "needy"
        with pytest.raises(ConfigError, match=r"^config.loss.needed is None: expected a number in \[0, 1\)$"):
            config_lib.resolve(config, dataset(PIXELS))
    finally:
        del table["needy"], table.arguments["needed"], table.files["needy"]
