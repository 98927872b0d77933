"""How accurate is the config for a GPU? `python -m digits_jax.studies.accuracy` shows it."""

from digits_jax.studies import Sweep


def get_sweep() -> Sweep:
    return Sweep(config="best", variants={"best": {}}, baseline="best", num_seeds=5)
