"""Which change makes strong more accurate on images by other writers, in as many epochs?

Test images are not scored. The candidate with the highest mean becomes `strong`.
"""

from digits_jax.studies import ON_HELD_OUT_WRITERS, Sweep

# Twice as many images as elsewhere: a network that misclassifies one in 250 is hard to tell from another.
ON_MORE_WRITERS = ON_HELD_OUT_WRITERS | {"dataset.validation_examples": 10_000}
ELASTIC = {"augment.names": ("affine", "elastic")}  # as in Simard et al. (2003)

CANDIDATES: dict[str, dict] = {
    "as it was": {},
    "elastic": ELASTIC,
    "half as elastic": ELASTIC | {"augment.elastic_alpha": 17.0},
    "erasing": {"augment.names": ("affine", "erasing"), "augment.erasing_area": 0.15},
    "averages three times as long": {"average_decay": 0.9997},
    "elastic, twice the rate": ELASTIC | {"learning_rates": (0.1,)},
    "elastic, half the warps": {
        **ELASTIC,
        "augment.rotation": 5.0,
        "augment.height_shift": 0.03,
        "augment.width_shift": 0.03,
        "augment.zoom": 0.04,
        "augment.shear": 0.05,
    },
    "elastic, a third block": {
        **ELASTIC,
        "model.widths": ((16, 16), (64, 64), (128,)),
        "model.block_dropout": (0.0, 0.0, 0.0),
    },
    "elastic, averages three times as long": ELASTIC | {"average_decay": 0.9997},
}


def get_sweep() -> Sweep:
    variants = {name: ON_MORE_WRITERS | fields for name, fields in CANDIDATES.items()}
    return Sweep(config="strong", variants=variants, baseline="as it was", num_seeds=3)
