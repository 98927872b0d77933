"""What does each ingredient contribute to fast?

Each variant leaves one out, replacing it by that of bn_dropout or by an alternative. They are scored on held-out
training images by other writers, not on test images.
"""

from digits_jax.studies import ON_HELD_OUT_WRITERS, Sweep


def get_sweep() -> Sweep:
    changes: dict[str, dict] = {
        "as it is": {},
        "no batch normalization": {"model.batch_norm": "none", "learning_rates": (0.01,)},
        "statistics follow slowly (0.99)": {"model.bn_momentum": 0.99},
        "constant rate": {"schedule.name": "piecewise_constant"},
        "one cycle": {"schedule.name": "one_cycle"},
        "no momentum, ten times the rate": {"optimizer.name": "sgd", "learning_rates": (1.0,)},
        "hard labels": {"loss.label_smoothing": 0.0},
        "batches of 256, twice the rate": {"batch_size": 256, "learning_rates": (0.2,)},
        "dropout before the last layer": {"model.hidden_dropout": 0.5},
        "not augmented": {
            "augment.rotation": 0.0,
            "augment.height_shift": 0.0,
            "augment.width_shift": 0.0,
            "augment.zoom": 0.0,
        },
        "averaged weights": {"average_decay": 0.99},
    }
    variants = {name: ON_HELD_OUT_WRITERS | fields for name, fields in changes.items()}
    return Sweep(config="fast", variants=variants, baseline="as it is", num_seeds=5)
