"""How many images of another data set does a network save that starts from weights trained on MNIST?

The data set is optical_digits (1,437 training images). The network is that of fast, without augmentation; the weights
are those that were shipped before fast was augmented. With frozen convolutions only the rest is trained.
"""

from digits_jax.studies import Sweep

NOT_AUGMENTED = {"augment.rotation": 0.0, "augment.height_shift": 0.0, "augment.width_shift": 0.0, "augment.zoom": 0.0}


def get_sweep() -> Sweep:
    def variants(name: str, sizes: tuple[int, ...], fields: dict) -> dict:
        data = {"dataset.name": "optical_digits", "epochs": (20,), "batch_size": 32} | NOT_AUGMENTED
        return {f"{name}, {size} images": data | {"dataset.train_examples": size} | fields for size in sizes}

    pretrained = {"init_from": "shipped"}
    frozen = pretrained | {"freeze": ("Conv_*", "BatchNorm_[0-3]")}
    return Sweep(
        config="fast",
        variants=variants("from scratch", (1437, 500, 200, 50), {})
        | variants("from MNIST", (1437, 500, 200, 50), pretrained)
        | variants("from MNIST, frozen", (200, 50), frozen),
        baseline="from scratch, 1437 images",
        num_seeds=5,
    )
