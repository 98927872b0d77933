"""Which random warps of few training images help vgg, on clean test images and on warped ones?

The test images are warped as the post warps them, whatever the warps of the training images.
"""

from digits_jax.config import POST_AUGMENTATION
from digits_jax.studies import Sweep

POST = {f"augment.{name}": value for name, value in POST_AUGMENTATION.items()}
MILD = {"augment.rotation": 5.0, "augment.height_shift": 0.04, "augment.width_shift": 0.04, "augment.zoom": 0.04}
AUGMENTATIONS = {
    "none": {},
    "the post's": POST,
    "without shear": POST | {"augment.shear": 0.0},
    "mild": MILD,
}
SMALL = {"dataset.train_examples": 12_000, "epochs": (1, 1, 1), "learning_rates": (0.01, 0.1, 0.01)}
SCORED = {"augment.test": True, "augment.test_ranges": (8.0, 0.08, 0.08, 0.3, 0.08)}


def get_sweep() -> Sweep:
    return Sweep(
        config="vgg",
        variants={name: SMALL | ranges | SCORED for name, ranges in AUGMENTATIONS.items()},
        baseline="none",
        num_seeds=5,
    )
