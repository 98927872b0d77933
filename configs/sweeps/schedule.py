"""Which learning-rate schedule is best for bn_dropout on few images, within the same three epochs?

Each has a peak of 0.1: constant; as stated, a tenth of it in the first and the last epoch; cosine decay; one cycle,
from a 25th of it up and down to zero.
"""

from digits_jax.studies import Sweep

SMALL = {"dataset.train_examples": 12_000, "epochs": (3,), "learning_rates": (0.1,)}


def get_sweep() -> Sweep:
    return Sweep(
        config="bn_dropout",
        variants={
            "as stated": SMALL | {"epochs": (1, 1, 1), "learning_rates": (0.01, 0.1, 0.01)},
            "constant": SMALL,
            "cosine": SMALL | {"schedule.name": "cosine"},
            "one cycle": SMALL | {"schedule.name": "one_cycle"},
        },
        baseline="as stated",
        num_seeds=5,
    )
