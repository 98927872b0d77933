"""Up to which batch size does vgg learn as well in five epochs, and which scaling of the learning rate does that take?

The rate at a batch of 64 is 0.1. It grows with the batch's size s/64 to the power of 1 (linear scaling, Goyal et al.
2017), of 1/2 (Krizhevsky 2014), or of 3/4; the first epoch is trained at a tenth of it.
"""

from digits_jax.studies.plan import Sweep

SIZES = (64, 256, 1024, 4096, 16384)
_POWERS = {"linear": 1.0, "between": 0.75, "square root": 0.5}


def _variant(size: int, rate: float) -> dict:
    return {"batch_size": size, "epochs": (1, 4), "learning_rates": (rate / 10, rate)}


def get_sweep() -> Sweep:
    # At 64 all scalings are the same, and half and twice the rate take their place.
    variants = {f"64, {name}": _variant(64, rate) for name, rate in (("half", 0.05), ("0.1", 0.1), ("twice", 0.2))}
    for size in SIZES[1:]:
        for name, power in _POWERS.items():
            rate = float(f"{0.1 * (size / 64) ** power:.3g}")
            variants[f"{size}, {name}"] = _variant(size, rate)
    return Sweep(config="configs/vgg.py", variants=variants, baseline="64, 0.1", num_seeds=1)
