"""What is one network to reach in ten minutes on a GPU, and an ensemble of such?

As `strong`, with twice the channels of the experiments, a third block, and the mean answer over five views of each test
image (test-time augmentation).

Command:  python -m digits_jax.main --config=configs/best.py --config.num_seeds=5 --workdir=runs/best
          python -m digits_jax.apps.evaluate --workdir=runs/best --checkpoint=latest    # also all five together
Cost:     1.4 PFLOP a seed: 239 MFLOP for each of six million images (docs/accuracy.md)
Expected: not measured, for want of a GPU
"""

from ml_collections import ConfigDict

from configs import default, strong


def get_config(arg: str = "") -> ConfigDict:
    config = strong.get_config()
    config.learning_rates = (0.1,)
    config.epochs = (100,)
    config.batch_size = 256
    config.eval_batch_size = 1000
    config.test_views = "shifts"
    config.model.widths = ((64, 64), (128, 128), (256,))
    config.model.hidden_width = 512
    config.model.block_dropout = (0.0, 0.0, 0.0)
    config.model.hidden_dropout = 0.5
    return default.apply_argument(config, arg)
