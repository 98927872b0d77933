"""Does augmentation help or hurt a linear softmax classifier?

The post validates this experiment on augmented test images, so the test set is scored clean and augmented.

Command:  python -m digits_jax.main --config=linear_augmented
Expected: final test accuracy 87.30 +- 0.32% clean (mean and standard deviation over 20 seeds, docs/reproduction.md)
Time:     3 seconds of training on two CPU cores
"""

from digits_jax.config import POST_AUGMENTATION, ConfigDict, experiment


@experiment(base="linear")
def get_config(config: ConfigDict) -> None:
    config.augment.update(POST_AUGMENTATION)
