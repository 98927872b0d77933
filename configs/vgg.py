"""How far does a small VGG-like CNN get without regularisation?

Command:  python -m digits_jax.main --config=configs/vgg.py
"""

from ml_collections import ConfigDict

from configs import default


def get_config(arg: str = "") -> ConfigDict:
    return default.get_config(arg)
