"""Should batch normalization come before or after each activation, and with which momentum of its running statistics?

bn_dropout on few images. A momentum of 0.99 forgets in about 100 steps, one of 0.9 in 10; an epoch here has 188.
"""

from digits_jax.studies import Sweep

SMALL = {"dataset.train_examples": 12_000, "epochs": (1, 1, 1), "learning_rates": (0.01, 0.1, 0.01)}


def get_sweep() -> Sweep:
    return Sweep(
        config="bn_dropout",
        variants={
            f"{place}, {momentum}": SMALL | {"model.batch_norm": place, "model.bn_momentum": momentum}
            for place in ("after", "before")
            for momentum in (0.99, 0.9)
        },
        baseline="after, 0.99",
        num_seeds=5,
    )
