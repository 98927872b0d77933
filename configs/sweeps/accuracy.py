"""How accurate are the configs that were made to be fast or strong?

Of their runs, and of those of the six experiments as stated, `python -m digits_jax.studies.accuracy` makes a page.
"""

from digits_jax.studies import Sweep


def get_sweep() -> Sweep:
    return Sweep(
        config="fast",
        variants={
            "fast:sprint": {"config": "fast:sprint"},
            "fast": {},
            "strong": {"config": "strong", "num_seeds": 5},
        },
        baseline="fast",
        num_seeds=10,
    )
