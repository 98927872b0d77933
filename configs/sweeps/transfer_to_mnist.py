"""Do weights trained on 1,437 images of another data set save images of MNIST?

The other one is optical_digits, from which the weights come in a run of 20 epochs. The network is that of fast, without
augmentation.
"""

# The weights: python -m digits_jax.main --config=fast --config.dataset.name=optical_digits --config.epochs=20 \
#     --config.augment.rotation=0 --config.augment.height_shift=0 --config.augment.width_shift=0 \
#     --config.augment.zoom=0 --workdir=runs/optical

from digits_jax.studies import Sweep

NOT_AUGMENTED = {"augment.rotation": 0.0, "augment.height_shift": 0.0, "augment.width_shift": 0.0, "augment.zoom": 0.0}


def get_sweep() -> Sweep:
    def variants(name: str, fields: dict) -> dict:
        data = {"epochs": (10,), "batch_size": 32} | NOT_AUGMENTED
        return {f"{name}, {size} images": data | {"dataset.train_examples": size} | fields for size in (1000, 100)}

    return Sweep(
        config="fast",
        variants=variants("from scratch", {}) | variants("from optical_digits", {"init_from": "runs/optical"}),
        baseline="from scratch, 1000 images",
        num_seeds=5,
    )
