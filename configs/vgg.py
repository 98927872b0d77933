"""How far does a small VGG-like CNN get without regularisation?

Command:  python -m digits_jax.main --config=configs/vgg.py
Expected: final test accuracy 99.26 +- 0.14 % (mean and standard deviation of 3 seeds, docs/reproduction.md)
Time:     6 minutes on two CPU cores
"""

from ml_collections import ConfigDict

from configs import default


def get_config(arg: str = "") -> ConfigDict:
    return default.get_config(arg)
