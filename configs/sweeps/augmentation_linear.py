"""Do random warps of few training images help a linear model, on test images as they are and on warped ones?

The same warps as in augmentation_vgg.
"""

from configs.sweeps import augmentation_vgg
from digits_jax.studies.sweep.plan import Sweep


def get_sweep() -> Sweep:
    return augmentation_vgg.get_sweep()._replace(config="configs/linear.py")
