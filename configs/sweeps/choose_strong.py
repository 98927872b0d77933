"""Which change makes strong more accurate on images by other writers, in as many epochs?

Test images are not scored. The candidate with the highest mean becomes `strong`.
"""

from digits_jax.studies import ON_HELD_OUT_WRITERS, Sweep

CANDIDATES: dict[str, dict] = {
    "as it was": {},
    "twice the rate": {"learning_rates": (0.1,)},
    "averages three times as long": {"average_decay": 0.9997},
    "half the warps": {
        "augment.rotation": 5.0,
        "augment.height_shift": 0.03,
        "augment.width_shift": 0.03,
        "augment.zoom": 0.04,
        "augment.shear": 0.05,
    },
    "without dropout": {"model.hidden_dropout": 0.0},
}


def get_sweep() -> Sweep:
    variants = {name: ON_HELD_OUT_WRITERS | fields for name, fields in CANDIDATES.items()}
    return Sweep(config="strong", variants=variants, baseline="as it was", num_seeds=3)
