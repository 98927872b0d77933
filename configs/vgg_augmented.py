"""Does augmentation help the VGG-like CNN?

The post validates this experiment on augmented test images, so the test set is scored clean and augmented.

Command:  python -m digits_jax.main --config=configs/vgg_augmented.py
Expected: final test accuracy 99.51 +- 0.04 % clean (mean and standard deviation of 3 seeds,
          docs/reproduction.md)
Time:     6 minutes on two CPU cores, as vgg
"""

from ml_collections import ConfigDict

from configs import default


def get_config(arg: str = "") -> ConfigDict:
    config = default.get_config()
    config.augment.update(default.POST_AUGMENTATION)
    return default.apply_argument(config, arg)
