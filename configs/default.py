"""Every field of a config, declared once with its unit; the other files only change what differs.

A config is a file with `get_config(arg)`, given as `--config=configs/vgg.py` or, with an argument, as
`--config=configs/vgg.py:as_logged`. Any field can be changed on the command line: `--config.seed=1`,
`--config.epochs=1,2`, `--config.model.block_dropout=0.25,0.25`.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

# The post's ImageDataGenerator, and its validation on augmented images (`da_test_batches`).
POST_AUGMENTATION = {
    "rotation": 8.0,
    "height_shift": 0.08,
    "width_shift": 0.08,
    "shear": 0.3,
    "zoom": 0.08,
    "test": True,
}
ARGUMENTS = ("", "as_logged", "smoke")


def get_config(arg: str = "") -> ConfigDict:
    """The VGG-like network without regularisation, trained as the post states it."""
    config = ConfigDict()
    config.seed = 0  # integer in [0, 2**32): initial weights, order of the images, dropout, augmentation
    config.num_seeds = 1  # runs: a run of its own for each of the seeds from `seed` on
    config.seeds_at_once = 0  # runs trained in one compiled program; 0: on one CPU 1, elsewhere all (replicas.py)

    # The learning rate is learning_rates[i] for epochs[i] epochs. The run is sum(epochs) long.
    config.learning_rates = (0.01, 0.1, 0.01)  # factor on the gradient, > 0
    config.epochs = (1, 5, 5)  # epochs (passes over all training images), integers >= 1
    config.schedule = "piecewise_constant"  # as above, or a key of digits_jax.optimizer.SCHEDULES, which have one rate
    config.optimizer = "sgd"  # a key of digits_jax.optimizer.OPTIMIZERS
    config.loss = "cross_entropy"  # a key of digits_jax.losses.LOSSES
    config.label_smoothing = 0.0  # in [0, 1): share of each label that is spread over all classes
    config.average_decay = 0.0  # in [0, 1): of a moving average of the weights, which is scored in their place; 0: none
    config.batch_size = 64  # images per step; the last batch of an epoch is short where it does not divide
    config.microbatch_size = 0  # images per gradient, summed; 0: 64 for convolutions on a CPU, else the batch
    config.early_stopping_epochs = 0  # epochs: stop after so many without a better one; 0: never

    config.steps_per_call = 20  # training steps in one compiled call; Ctrl-C and the progress bar wait for a call
    config.eval_batch_size = 64  # images per evaluation batch; memory, time, draws of test_augmented/ and test_stream/
    config.test_views = "one"  # a key of digits_jax.views.VIEWS: of each image that is scored or predicted
    config.test_stream = False  # also score as many test images out of an endless shuffled stream, as test_stream/

    dataset = config.dataset = ConfigDict()
    dataset.name = "mnist"  # a key of digits_jax.data.datasets.DATASETS
    dataset.data_dir = placeholder(str)  # folder of prepared data; None: $TFDS_DATA_DIR or ~/tensorflow_datasets
    dataset.source_dir = placeholder(str)  # folder with the original IDX files, where data is not prepared yet
    dataset.feed = "device"  # "device": all images on it; "host": gathered for each call, for data that do not fit
    dataset.validation_examples = 0  # images: hold out the last training images, to select the best epoch by them
    dataset.train_examples = placeholder(int)  # images: train on the first so many only; None: all

    augment = config.augment = ConfigDict()
    augment.name = "affine"  # a key of digits_jax.augment.AUGMENTATIONS
    # "affine": random warps of the training images, uniform in the given ranges; all zero: none.
    augment.rotation = 0.0  # degrees, in [0, 180]: +-
    augment.height_shift = 0.0  # fraction of the height, in [0, 1]: +-
    augment.width_shift = 0.0  # fraction of the width, in [0, 1]: +-
    augment.shear = 0.0  # radians, in [0, pi / 2): +-
    augment.zoom = 0.0  # fraction of the size, in [0, 1): each axis is scaled by 1 +- this
    augment.interpolation = "nearest"  # "nearest", as Keras 1 samples, or "bilinear"
    augment.test = False  # also score the test images, augmented in the same way, as test_augmented/
    augment.test_ranges = ()  # rotation, height_shift, width_shift, shear and zoom of these; (): those of training

    model = config.model = ConfigDict()
    model.name = "vgg"  # a key of digits_jax.models.MODELS
    model.mean = placeholder(float)  # grey level [0, 255]; None: the mean over the training images
    model.std = placeholder(float)  # grey levels, > 0; None: the standard deviation over the same
    model.kernel_init = "glorot_uniform"  # a key of digits_jax.models.KERNEL_INITS; biases start at zero
    model.dtype = "float32"  # of activations and products; "float32" or "bfloat16" (parameters stay float32)
    model.conv = "auto"  # "winograd", "matmul", "lax"; "auto": the first on a CPU, else the last (conv.py, dense.py)
    # The rest is read by "vgg" only.
    model.widths = ((32, 32), (64, 64))  # channels of the 3x3 convolutions, per block; a max-pool ends a block
    model.hidden_width = 512  # units of the dense layer before the last
    model.block_dropout = (0.0, 0.0)  # probability [0, 1) of dropping a value after each block's max-pool
    model.hidden_dropout = 0.0  # probability [0, 1) of dropping a value before the last layer
    model.batch_norm = "none"  # "none", or batch normalisation "before" or "after" each activation
    model.bn_momentum = 0.99  # [0, 1]: weight of the old running mean and variance in each update
    model.bn_epsilon = 1e-5  # >= 0, added to the variance; Keras 1.0.8 to 1.1.2 have this value
    return apply_argument(config, arg).lock()  # from here on a field that is not declared above is refused


def apply_argument(config: ConfigDict, arg: str) -> ConfigDict:
    """Applies `--config=FILE:arg`; every config's `get_config` ends with it.

    Args:
      config: the experiment's config.
      arg: "" leaves it as the post states it. "as_logged" makes it what the post's printed log shows. "smoke" shrinks
        it to seconds, for a dry run: 256 images, one epoch per learning rate.

    Raises:
      ValueError: the argument is none of `ARGUMENTS`, or "as_logged" of a config that the post does not have.
    """
    if arg not in ARGUMENTS:
        raise ValueError(f"unknown config argument {arg!r}: expected one of {[a for a in ARGUMENTS if a]} or none")
    if arg == "as_logged":
        if config.optimizer != "sgd":
            raise ValueError("the post has no log of this config: expected the argument 'smoke' or none")
        # In Keras 1, setting `model.optimizer.lr` after the training function is built changes nothing: the log of
        # the linear model matches a constant 0.01 and does not drop where the stated rate falls.
        # Source: keras/optimizers.py and keras/engine/training.py, releases 1.0.8 to 1.2.2.
        config.learning_rates = (0.01,)
        config.epochs = (sum(config.epochs),)
        # Convolutions started smaller than Glorot's, with fans read in Theano's order (digits_jax/models.py).
        config.model.kernel_init = "keras1_uniform"
        # Its validation figures are on a stream of test images, not on each of them once (input_pipeline.stream_order).
        config.test_stream = True
    if arg == "smoke":
        config.dataset.train_examples = 256
        config.epochs = (1,) * len(config.learning_rates)
    return config
