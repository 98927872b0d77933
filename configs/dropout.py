"""Does dropping half of each block's outputs help the VGG-like CNN?

Command:  python -m digits_jax.main --config=configs/dropout.py
Expected: final test accuracy 99.39 +- 0.01 % (mean and standard deviation of 3 seeds, docs/reproduction.md)
Time:     6 minutes on two CPU cores
"""

from ml_collections import ConfigDict

from configs import default


def get_config(arg: str = "") -> ConfigDict:
    config = default.get_config()
    config.model.block_dropout = (0.5, 0.5)
    return default.apply_argument(config, arg)
