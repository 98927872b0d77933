"""1,797 real handwritten digits that ship inside scikit-learn: the data set that needs no network.

E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998,
https://doi.org/10.24432/C50P49, CC BY 4.0; scikit-learn ships its test half as `sklearn.datasets.load_digits`.
"""

from pathlib import Path

import numpy as np

from digits_jax.data.arrays import Arrays
from digits_jax.errors import UserError

_NUM_TRAIN = 1437


def read(source_dir: Path | None) -> Arrays:
    """Returns the digits in MNIST's frame: 8x8 pixels scaled bilinearly to 20x20, inside 28x28."""
    if source_dir is not None:
        raise UserError("config.dataset.source_dir is given, but optical_digits ships with scikit-learn: drop it")
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.zeros((len(digits.images), 28, 28, 1), np.uint8)
    for image, digit in zip(images, digits.images, strict=True):
        # Its gray levels are 0 to 16.
        scaled = Image.fromarray(digit.astype(np.float32) * (255 / 16)).resize((20, 20), Image.Resampling.BILINEAR)
        image[4:24, 4:24, 0] = np.rint(np.asarray(scaled)).astype(np.uint8)
    labels = digits.target.astype(np.uint8)
    return Arrays(images[:_NUM_TRAIN], labels[:_NUM_TRAIN], images[_NUM_TRAIN:], labels[_NUM_TRAIN:])
