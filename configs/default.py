"""Every field of a config, declared once with its unit; the other files only change what differs.

A config is a file with `get_config(arg)`, given as `--config=configs/vgg.py` or, with an argument, as
`--config=configs/vgg.py:smoke`. Any field can be changed on the command line: `--config.seed=1`,
`--config.epochs=1,2`, `--config.model.block_dropout=0.25,0.25`.
"""

from ml_collections import ConfigDict, config_dict

ARGUMENTS = ("", "smoke")


def get_config(arg: str = "") -> ConfigDict:
    """The VGG-like network without regularisation, trained as the post states it."""
    config = ConfigDict()
    config.seed = 0  # integer in [0, 2**32): initial weights, order of the images, dropout

    # The learning rate is piecewise constant: learning_rates[i] for epochs[i] epochs. The run is sum(epochs) long.
    config.learning_rates = (0.01, 0.1, 0.01)  # factor on the gradient, > 0
    config.epochs = (1, 5, 5)  # epochs (passes over all training images), integers >= 1
    config.batch_size = 64  # images per step; the last batch of an epoch is short where it does not divide

    config.steps_per_call = 20  # training steps in one compiled call; Ctrl-C and the progress bar wait for a call
    config.eval_batch_size = 250  # images per evaluation batch; changes memory and time, not the result

    dataset = config.dataset = ConfigDict()
    dataset.name = "mnist"  # a key of digits_jax.datasets.DATASETS
    dataset.data_dir = config_dict.placeholder(
        str
    )  # folder of prepared data; None: $TFDS_DATA_DIR or ~/tensorflow_datasets
    dataset.source_dir = config_dict.placeholder(
        str
    )  # folder with the original IDX files, where data is not prepared yet
    dataset.train_examples = config_dict.placeholder(int)  # images: train on the first so many only; None: all

    model = config.model = ConfigDict()
    model.name = "vgg"  # a key of digits_jax.models.MODELS
    model.mean = config_dict.placeholder(float)  # grey level [0, 255]; None: the mean over the training images
    model.std = config_dict.placeholder(float)  # grey levels, > 0; None: the standard deviation over the same
    model.kernel_init = "glorot_uniform"  # a key of digits_jax.models.KERNEL_INITS; biases start at zero
    model.dtype = "float32"  # of activations and products; "float32" or "bfloat16" (parameters stay float32)
    model.conv = "auto"  # "matmul", "lax", or "auto": "matmul" on a CPU, "lax" elsewhere (digits_jax/conv.py)
    # The rest is read by "vgg" only.
    model.widths = (
        (32, 32),
        (64, 64),
    )  # channels of each 3x3 convolution, one tuple per block; a 2x2 max-pool ends a block
    model.hidden_width = 512  # units of the dense layer before the last
    model.block_dropout = (0.0, 0.0)  # probability [0, 1) of dropping a value after each block's max-pool
    model.hidden_dropout = 0.0  # probability [0, 1) of dropping a value before the last layer
    model.batch_norm = "none"  # "none", or batch normalisation "before" or "after" each activation
    model.bn_momentum = 0.99  # [0, 1]: weight of the old running mean and variance in each update
    model.bn_epsilon = 1e-5  # >= 0, added to the variance; Keras 1.1 has this value
    return apply_argument(config, arg)


def apply_argument(config: ConfigDict, arg: str) -> ConfigDict:
    """Applies `--config=FILE:arg`; every config's `get_config` ends with it.

    Args:
      config: the experiment's config.
      arg: "" leaves it alone; "smoke" shrinks it to seconds, for a dry run: 256 images, one epoch per learning rate.

    Raises:
      ValueError: the argument is none of `ARGUMENTS`.
    """
    if arg not in ARGUMENTS:
        raise ValueError(f"unknown config argument {arg!r}: expected one of {[a for a in ARGUMENTS if a]} or none")
    if arg == "smoke":
        config.dataset.train_examples = 256
        config.epochs = (1,) * len(config.learning_rates)
    return config
