"""How far does a linear softmax classifier on the pixels get?

Command:  python -m digits_jax.main --config=linear
Expected: final test accuracy 92.51 +- 0.06% (mean and standard deviation over 20 seeds, docs/reproduction.md)
Time:     2 seconds of training on two CPU cores
"""

from digits_jax.config import ConfigDict, experiment


@experiment()
def get_config(config: ConfigDict) -> None:
    config.model.name = "linear"
    config.execution.steps_per_call = 200
