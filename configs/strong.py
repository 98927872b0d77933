"""How accurate does one network become in twenty minutes on two CPU cores?

As `fast`, for longer: the first block as narrow, because a CPU spends most of its time there, the second as wide as in
the experiments; wider warps, and the moving average of the weights.

Command:  python -m digits_jax.main --config=strong
Expected: final test accuracy 99.68 +- 0.02% (mean and standard deviation over 5 seeds, docs/accuracy.md)
Time:     13 to 17 minutes on two CPU cores
"""

from digits_jax.config import ConfigDict, experiment


@experiment(base="fast")
def get_config(config: ConfigDict) -> None:
    config.epochs = (38,)
    config.learning_rates = (0.05,)
    config.average_decay = 0.999
    config.model.widths = ((16, 16), (64, 64))
    config.model.hidden_width = 256
    config.model.hidden_dropout = 0.3
    config.augment.rotation = 10.0
    config.augment.height_shift = 0.06
    config.augment.width_shift = 0.06
    config.augment.zoom = 0.08
    config.augment.shear = 0.1
