"""How large a batch can bn_dropout use within three epochs on few images, if its learning rate grows as much?

The rates are those of a batch of 64, times s for s times as many images (linear scaling, Goyal et al. 2017). So that
the running statistics, which normalize test images, keep up with the fewer steps of larger batches, they move as far
per image: a momentum of 0.99^s (configs/sweeps/batch_statistics.py asks what happens otherwise).
"""

from digits_jax.studies import Sweep


def get_sweep() -> Sweep:
    def variant(size: int) -> dict:
        rates = tuple(float(f"{rate * size / 64:.3g}") for rate in (0.01, 0.1, 0.01))
        few = {"dataset.train_examples": 12_000, "epochs": (1, 1, 1), "batch_size": size, "learning_rates": rates}
        return few | ({"model.bn_momentum": round(0.99 ** (size / 64), 4)} if size > 64 else {})

    return Sweep(
        config="bn_dropout",
        variants={str(size): variant(size) for size in (64, 32, 128, 256, 512, 1024)},
        baseline="64",
        num_seeds=5,
    )
