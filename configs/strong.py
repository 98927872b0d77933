"""How accurate does one network become in twenty minutes on two CPU cores?

The first block as narrow as in `fast`, because that is where a CPU spends its time, the second as wide as in the
experiments; augmented images, smoothed labels, and the moving average of the weights.

Command:  python -m digits_jax.main --config=configs/strong.py
Expected: not trained to its end yet
"""

from ml_collections import ConfigDict

from configs import default


def get_config(arg: str = "") -> ConfigDict:
    config = default.get_config()
    config.optimizer = "nesterov"
    config.schedule = "linear"
    config.learning_rates = (0.05,)
    config.epochs = (45,)
    config.label_smoothing = 0.1
    config.average_decay = 0.999
    config.model.widths = ((16, 16), (64, 64))
    config.model.hidden_width = 256
    config.model.hidden_dropout = 0.3
    config.model.batch_norm = "after"
    config.model.bn_momentum = 0.9
    config.augment.rotation = 10.0
    config.augment.height_shift = 0.06
    config.augment.width_shift = 0.06
    config.augment.zoom = 0.08
    config.augment.shear = 0.1
    return default.apply_argument(config, arg)
