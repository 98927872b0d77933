"""How far does a small VGG-like CNN get without regularisation?

Command:  python -m digits_jax.main --config=configs/vgg.py
Expected: final test accuracy 99.05 %, best on the test set 99.12 % (seed 0, commit b32e966)
Time:     6 minutes on two CPU cores
"""

from ml_collections import ConfigDict

from configs import default


def get_config(arg: str = "") -> ConfigDict:
    return default.get_config(arg)
