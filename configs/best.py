"""What can a larger network reach on a GPU, and an ensemble of five?

As `strong`, with twice the channels of the experiments, a third block, and test-time augmentation: the mean prediction
over five shifted versions of each test image.

Command:  python -m digits_jax.main --config=best --config.num_seeds=5 --workdir=runs/best
          python -m digits_jax.apps.evaluate --workdir=runs/best --checkpoint=latest    # also the ensemble of all five
Cost:     1.4 PFLOP a seed: 239 MFLOP for each of six million images (docs/accuracy.md)
Expected: final test accuracy 99.73 and 99.69% (two seeds, docs/accuracy.md)
Time:     about two minutes for both at the same time, on an NVIDIA H100
"""

from digits_jax.config import ConfigDict, experiment


@experiment(base="strong")
def get_config(config: ConfigDict) -> None:
    config.learning_rates = (0.1,)
    config.epochs = (100,)
    config.batch_size = 256
    config.eval_batch_size = 1000
    config.test_time_augmentation = "shifts"
    config.model.widths = ((64, 64), (128, 128), (256,))
    config.model.hidden_width = 512
    config.model.block_dropout = (0.0, 0.0, 0.0)
    config.model.hidden_dropout = 0.5
