"""How far does a linear softmax classifier on the pixels get?

Command:  python -m digits_jax.main --config=configs/linear.py
Expected: final test accuracy 92.41 %, best on the test set 92.60 % (seed 0, commit b32e966)
Time:     2 seconds of training on two CPU cores
"""

from ml_collections import ConfigDict

from configs import default


def get_config(arg: str = "") -> ConfigDict:
    config = default.get_config()
    config.model.name = "linear"
    config.steps_per_call = 200
    return default.apply_argument(config, arg)
