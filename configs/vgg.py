"""How far does a small VGG-like CNN get without regularization?

Command:  python -m digits_jax.main --config=vgg
Expected: final test accuracy 99.31 +- 0.09% (mean and standard deviation over 9 seeds, docs/reproduction.md; a tenth
          diverges)
Time:     5 to 6 minutes on two CPU cores
"""

from digits_jax.config import ConfigDict, experiment


@experiment()
def get_config(config: ConfigDict) -> None:
    config.model.name = "vgg"
