"""Does augmentation help or hurt a linear softmax classifier?

The post validates this experiment on augmented test images, so the test set is scored clean and augmented.

Command:  python -m digits_jax.main --config=configs/linear_augmented.py
Expected: final test accuracy 87.30 +- 0.32 % clean (mean and standard deviation of 20 seeds,
          docs/reproduction.md)
Time:     3 seconds of training on two CPU cores
"""

from ml_collections import ConfigDict

from configs import default, linear


def get_config(arg: str = "") -> ConfigDict:
    config = linear.get_config()
    config.augment.update(default.POST_AUGMENTATION)
    return default.apply_argument(config, arg)
