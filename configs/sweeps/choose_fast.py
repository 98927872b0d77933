"""Which change makes fast more accurate on images by other writers, at no more time?

Test images are not scored. The candidate with the highest mean becomes `fast`.
"""

from digits_jax.studies import ON_HELD_OUT_WRITERS, Sweep

CANDIDATES: dict[str, dict] = {
    "as it was": {},
    "half the rate": {"learning_rates": (0.05,)},
    "twice the rate": {"learning_rates": (0.2,)},
    "one cycle": {"schedule.name": "one_cycle"},
    "hard labels": {"loss.label_smoothing": 0.0},
    "labels smoothed by half": {"loss.label_smoothing": 0.05},
    "batches of 128, twice the rate": {"batch_size": 128, "learning_rates": (0.2,)},
    "dropout before the last layer": {"model.hidden_dropout": 0.3},
    "twice as many hidden units": {"model.hidden_width": 256},
    "augmented": {
        "augment.rotation": 8.0,
        "augment.height_shift": 0.05,
        "augment.width_shift": 0.05,
        "augment.zoom": 0.05,
    },
    "averaged weights": {"average_decay": 0.99},
}

# As `fast` was before.
NOT_AUGMENTED = {"augment.rotation": 0.0, "augment.height_shift": 0.0, "augment.width_shift": 0.0, "augment.zoom": 0.0}


def get_sweep() -> Sweep:
    variants = {name: ON_HELD_OUT_WRITERS | NOT_AUGMENTED | fields for name, fields in CANDIDATES.items()}
    return Sweep(config="fast", variants=variants, baseline="as it was", num_seeds=3)
