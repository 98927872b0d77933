"""How accurate are the configs that were made to be fast, strong or tiny?

`python -m digits_jax.studies.accuracy` makes a page of their runs and those of the six experiments as stated.
"""

from digits_jax.studies import Sweep


def get_sweep() -> Sweep:
    return Sweep(
        config="fast",
        variants={
            "fast:sprint": {"config": "fast:sprint"},
            "fast": {},
            "strong": {"config": "strong", "num_seeds": 10},
            "tiny": {"config": "tiny", "num_seeds": 10},
        },
        baseline="fast",
        num_seeds=20,
    )
