"""Does augmentation help the VGG-like CNN?

The post validates this experiment on augmented test images, so the test set is scored clean and augmented.

Command:  python -m digits_jax.main --config=configs/vgg_augmented.py
Expected: final test accuracy 99.52 % clean and 99.10 % augmented, best on the clean test set 99.54 %
          (seed 0, commit b32e966)
Time:     6 minutes on two CPU cores, as vgg
"""

from ml_collections import ConfigDict

from configs import default


def get_config(arg: str = "") -> ConfigDict:
    config = default.get_config()
    config.augment.update(default.POST_AUGMENTATION)
    return default.apply_argument(config, arg)
