"""Does dropping half of each block's outputs help the VGG-like CNN?

Command:  python -m digits_jax.main --config=dropout
Expected: final test accuracy 99.39 +- 0.01% (mean and standard deviation over 10 seeds, docs/reproduction.md)
Time:     5 to 6 minutes on two CPU cores
"""

from digits_jax.config import ConfigDict, experiment


@experiment(base="vgg")
def get_config(config: ConfigDict) -> None:
    config.model.block_dropout = (0.5, 0.5)
