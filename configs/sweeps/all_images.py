"""Do the closest calls on few images become clear on all of them, with bn_dropout?

Three epochs on 60,000 images: without the dropout before the last layer (a close call of regularization), with batch
normalization before each activation and a momentum of 0.9 (of batch_norm), and with the one-cycle schedule (of
schedule).
"""

from digits_jax.studies import Sweep

SHORT = {"epochs": (1, 1, 1), "learning_rates": (0.01, 0.1, 0.01)}


def get_sweep() -> Sweep:
    return Sweep(
        config="bn_dropout",
        variants={
            "as it is": SHORT,
            "without dropout": SHORT | {"model.hidden_dropout": 0.0},
            "before, 0.9": SHORT | {"model.batch_norm": "before", "model.bn_momentum": 0.9},
            "one cycle": {"epochs": (3,), "learning_rates": (0.1,), "schedule.name": "one_cycle"},
        },
        baseline="as it is",
        num_seeds=5,
    )
