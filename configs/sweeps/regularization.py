"""Which regularization helps vgg when there are few images: dropout, batch normalization, both?

Dropout is either applied to half the values before the last layer, as in bn_dropout, or to half of each block's
outputs, as in dropout.
"""

from digits_jax.studies import Sweep

SMALL = {"dataset.train_examples": 12_000, "epochs": (1, 1, 1), "learning_rates": (0.01, 0.1, 0.01)}
DROPOUT = {"model.hidden_dropout": 0.5}
BATCH_NORM = {"model.batch_norm": "after"}


def get_sweep() -> Sweep:
    variants: dict[str, dict] = {
        "none": {},
        "dropout": DROPOUT,
        "dropout in the blocks": {"model.block_dropout": (0.5, 0.5)},
        "batch normalization": BATCH_NORM,
        "both": DROPOUT | BATCH_NORM,
    }
    return Sweep(
        config="vgg",
        variants={name: SMALL | fields for name, fields in variants.items()},
        baseline="none",
        num_seeds=5,
    )
