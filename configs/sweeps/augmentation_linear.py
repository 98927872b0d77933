"""Do random warps of few training images help a linear model, on clean test images and on warped ones?

The same warps as in augmentation_vgg.
"""

from digits_jax.studies.sweep import Sweep, load_sweep


def get_sweep() -> Sweep:
    return load_sweep("augmentation_vgg")._replace(config="linear")
