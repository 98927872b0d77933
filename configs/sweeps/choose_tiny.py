"""Which network of at most 8,000 parameters, and which recipe, is most accurate on images by other writers?

Test images are not scored. The candidate with the highest mean becomes `tiny`.
"""

from digits_jax.studies import ON_HELD_OUT_WRITERS, Sweep

# As `fast`, for longer, with averaged weights and half as many channels.
THREE_BLOCKS = {
    "epochs": (20,),
    "average_decay": 0.999,
    "model.widths": ((8, 8), (16, 16), (16,)),
    "model.block_dropout": (0.0, 0.0, 0.0),
    "model.hidden_width": 32,
}

HALF_THE_WARPS = {
    "augment.rotation": 4.0,
    "augment.height_shift": 0.025,
    "augment.width_shift": 0.025,
    "augment.zoom": 0.025,
}
HARD_LABELS = {"loss.label_smoothing": 0.0}

# The last was added when the first seed of the others was known.
CANDIDATES: dict[str, dict] = {
    "three blocks": {},
    "two blocks": {
        "model.widths": ((8, 8), (16, 16)),
        "model.block_dropout": (0.0, 0.0),
        "model.hidden_width": 12,
    },
    "hard labels": HARD_LABELS,
    "half the warps": HALF_THE_WARPS,
    "hard labels, half the warps": HARD_LABELS | HALF_THE_WARPS,
}


def get_sweep() -> Sweep:
    variants = {name: ON_HELD_OUT_WRITERS | THREE_BLOCKS | fields for name, fields in CANDIDATES.items()}
    return Sweep(config="fast", variants=variants, baseline="three blocks", num_seeds=3)
