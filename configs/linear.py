"""How far does a linear softmax classifier on the pixels get?

Command:  python -m digits_jax.main --config=configs/linear.py
Expected: final test accuracy 92.51 +- 0.06 % (mean and standard deviation of 20 seeds, docs/reproduction.md)
Time:     2 seconds of training on two CPU cores
"""

from ml_collections import ConfigDict

from configs import default


def get_config(arg: str = "") -> ConfigDict:
    config = default.get_config()
    config.model.name = "linear"
    config.steps_per_call = 200
    return default.apply_argument(config, arg)
