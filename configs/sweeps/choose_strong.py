"""Which change makes strong more accurate on images by other writers, in as many epochs?

Test images are not scored. The candidate with the highest mean becomes `strong`.
"""

from digits_jax.studies import ON_MORE_WRITERS, Sweep

# A third of the strength of Simard et al. (2003), whose network had no other warps. With theirs, the only run that was
# tried had 98.6% on augmented training images, and less on held-out ones.
ELASTIC = {"augment.names": ("affine", "elastic"), "augment.elastic_alpha": 10.0}
THIRD_BLOCK = {"model.widths": ((16, 16), (64, 64), (128,)), "model.block_dropout": (0.0, 0.0, 0.0)}

CANDIDATES: dict[str, dict] = {
    "as it was": {},
    "hard labels": {"loss.label_smoothing": 0.0},
    "elastic": ELASTIC,
    "a third block": THIRD_BLOCK,
    "a third block, elastic": THIRD_BLOCK | ELASTIC,
    "erasing": {"augment.names": ("affine", "erasing"), "augment.erasing_area": 0.15},
    "averages three times as long": {"average_decay": 0.9997},
}


def get_sweep() -> Sweep:
    variants = {name: ON_MORE_WRITERS | fields for name, fields in CANDIDATES.items()}
    return Sweep(config="strong", variants=variants, baseline="as it was", num_seeds=3)
