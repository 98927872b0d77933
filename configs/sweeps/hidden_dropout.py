"""Does dropout before the last layer help bn_dropout when there are few images, and at which rate?"""

from digits_jax.studies import Sweep

SMALL = {"dataset.train_examples": 12_000, "epochs": (1, 1, 1), "learning_rates": (0.01, 0.1, 0.01)}


def get_sweep() -> Sweep:
    return Sweep(
        config="bn_dropout",
        variants={f"rate {rate:g}": SMALL | {"model.hidden_dropout": rate} for rate in (0.0, 0.25, 0.5)},
        baseline="rate 0.5",
        num_seeds=5,
    )
