"""A config's network and recipe as a Keras 3 user writes them; needs the extra `benchmark`.

The environment variable `KERAS_BACKEND` chooses what computes.
"""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from digits_jax.apps.speed import Pass
from digits_jax.data import Dataset
from digits_jax.studies.benchmark.pytorch import MOMENTA


def training_pass(config: ConfigDict, dataset: Dataset) -> Pass:
    """Returns a function that trains for an epoch with `Model.fit`, on images that are normalized beforehand."""
    import keras

    momentum = MOMENTA[config.optimizer.name]
    model = _create_model(config.model, dataset.image_shape)
    model.compile(
        keras.optimizers.SGD(config.learning_rates[0], momentum=momentum, nesterov=momentum > 0),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=config.loss.label_smoothing),
    )
    images, labels = _normalized(dataset, "train"), np.eye(10, dtype=np.float32)[dataset.split("train")[1]]
    return lambda: model.fit(images, labels, batch_size=config.batch_size, verbose=0)


def evaluation_pass(config: ConfigDict, dataset: Dataset) -> Pass:
    """Returns a function that computes the logits of all test images with `Model.predict`."""
    model, images = _create_model(config.model, dataset.image_shape), _normalized(dataset, "test")
    return lambda: model.predict(images, batch_size=config.eval_batch_size, verbose=0)


def _normalized(dataset: Dataset, split: str) -> np.ndarray:
    images = dataset.arrays.train_images
    return ((dataset.split(split)[0] - images.mean()) / images.std()).astype(np.float32)


def _create_model(fields: ConfigDict, image_shape: tuple[int, ...]) -> Any:
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    if fields.name == "linear":
        return keras.Sequential([keras.Input(image_shape), layers.Flatten(), layers.Dense(10)])

    def activation() -> list[Any]:
        norm = layers.BatchNormalization(momentum=fields.bn_momentum, epsilon=fields.bn_epsilon)
        relu = layers.ReLU()
        return {"none": [relu], "before": [norm, relu], "after": [relu, norm]}[fields.batch_norm]

    stack: list[Any] = [keras.Input(image_shape)]
    for widths, rate in zip(fields.widths, fields.block_dropout, strict=True):
        for width in widths:
            stack += [layers.Conv2D(width, 3), *activation()]
        stack += [layers.MaxPooling2D(), layers.Dropout(rate)]
    stack += [layers.Flatten(), layers.Dense(fields.hidden_width), *activation()]
    return keras.Sequential([*stack, layers.Dropout(fields.hidden_dropout), layers.Dense(10)])
