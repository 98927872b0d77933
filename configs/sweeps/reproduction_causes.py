"""What explains the first numbers of the post's log: which single change to the runs as logged brings them closer?"""

from digits_jax.studies import Sweep

FIRST = {"epochs": (3,), "num_seeds": 3}


def get_sweep() -> Sweep:
    linear, vgg, dropout, bn = ({"config": f"{name}:as_logged"} for name in ("linear", "vgg", "dropout", "bn_dropout"))
    return Sweep(
        config="linear:as_logged",
        variants={
            "linear, the stated rates": linear | {"learning_rates": (0.01, 0.1, 0.01), "epochs": (1, 5, 5)},
            # The queue loses 10 batches of 938 between the post's calls of fit_generator; here in every epoch.
            "linear, 640 images less": linear | {"dataset.train_examples": 59_360},
            "vgg, the stated rates": vgg | FIRST | {"learning_rates": (0.01, 0.1), "epochs": (1, 2)},
            "vgg, true Glorot": vgg | FIRST | {"model.kernel_init": "glorot_uniform"},
            # No change: do more seeds reach the post's slow start?
            "dropout, more seeds": dropout | {"epochs": (2,), "num_seeds": 12},
            "dropout, also before the last layer": dropout | FIRST | {"model.hidden_dropout": 0.5},
            "dropout, true Glorot": dropout | FIRST | {"model.kernel_init": "glorot_uniform"},
            "bn_dropout, epsilon of Keras 1.2": bn | FIRST | {"model.bn_epsilon": 1e-3},
            "bn_dropout, epsilon and momentum of Keras 1.0.4": bn
            | FIRST
            | {"model.bn_epsilon": 1e-6, "model.bn_momentum": 0.9},
            "bn_dropout, normalized before each activation": bn | FIRST | {"model.batch_norm": "before"},
            "bn_dropout, true Glorot": bn | FIRST | {"model.kernel_init": "glorot_uniform"},
        },
        baseline="linear, the stated rates",
        num_seeds=20,
    )
