"""How accurate is a network with fewer parameters than softmax regression on the pixels?

As `fast`, with half as many channels, a third block in place of the large dense layer, hard labels, and the moving
average of the weights. Chosen on held-out writers by configs/sweeps/choose_tiny.py. It has 7,538 parameters; linear has
7,850.

Command:  python -m digits_jax.main --config=tiny
Expected: final test accuracy 99.52 +- 0.04% (mean and standard deviation over 5 seeds, docs/accuracy.md)
Time:     three to four minutes on two CPU cores
"""

from digits_jax.config import ConfigDict, experiment


@experiment(base="fast")
def get_config(config: ConfigDict) -> None:
    config.epochs = (20,)
    config.average_decay = 0.999
    config.loss.label_smoothing = 0.0
    config.model.widths = ((8, 8), (16, 16), (16,))
    config.model.block_dropout = (0.0, 0.0, 0.0)
    config.model.hidden_width = 32
