"""Does augmentation help the VGG-like CNN?

The post validates this experiment on augmented test images, so the test set is scored clean and augmented.

Command:  python -m digits_jax.main --config=vgg_augmented
Expected: final test accuracy 99.54 +- 0.04% clean (mean and standard deviation over 10 seeds, docs/reproduction.md)
Time:     5 to 6 minutes on two CPU cores, as vgg
"""

from digits_jax.config import POST_AUGMENTATION, ConfigDict, experiment


@experiment(base="vgg")
def get_config(config: ConfigDict) -> None:
    config.augment.update(POST_AUGMENTATION)
