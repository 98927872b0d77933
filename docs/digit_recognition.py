# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Digit Recognition, rerun
#
# [*Digit Recognition - 2*](http://rahular.com/digit-recognition-2/) by rahular is a Keras 1 notebook that trains six
# models on MNIST: softmax regression and a small VGG-like network, each without and with augmented images, then the
# network with dropout, and with batch normalization. Here `digits_jax` does the same. The notebook writes one training
# step by hand, trains the two linear models in full and the four networks briefly, and then shows the full runs, whose
# results are committed in this repository.

# %%
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import pandas as pd
from sklearn.metrics import ConfusionMatrixDisplay

import digits_jax
from digits_jax import data, ops
from digits_jax.config import load_config, resolve
from digits_jax.losses import create_loss
from digits_jax.models import create_model
from digits_jax.optimizer import create_optimizer, steps_per_epoch
from digits_jax.studies import load_runs
from digits_jax.studies.reproduce.page import plot_experiment, read_data
from digits_jax.studies.reproduce.post_log import EXPERIMENTS

# "optical_digits" needs no network: 1,797 small digits that ship with scikit-learn.
DATASET = os.environ.get("DIGITS_JAX_DATASET", "mnist")
DOCS = Path(digits_jax.__file__).parents[1] / "docs"

# %% [markdown]
# ## The data

# %%
dataset = data.load(DATASET)
images, labels = dataset.split("train")
test_images, test_labels = dataset.split("test")
pd.DataFrame(
    {"training images": np.bincount(labels), "test images": np.bincount(test_labels)},
    index=pd.Index(range(dataset.num_classes), name="digit"),
).T

# %%
print(f"{DATASET}: {images.dtype}{list(images.shape)} and {test_images.dtype}{list(test_images.shape)}")
print(f"training pixels: mean {images.mean():.4f}, standard deviation {images.std():.4f}")

# %% [markdown]
# ## One training step
#
# A config names a model, a loss and an optimizer: a Flax module, a function and an Optax transformation. The model
# takes raw pixels and normalizes them itself; `resolve` fills in the mean and standard deviation of the training
# images. Here is the post's last network, `bn_dropout`. Its running batch statistics are an input and an output of the
# step, as the parameters are.

# %%
config = resolve(load_config("bn_dropout"), dataset)
model = create_model(config.model, dataset.num_classes)
loss = create_loss(config.loss)
tx = create_optimizer(config, steps_per_epoch(len(labels), config.batch_size))


@jax.jit
@ops.using("lax")  # XLA's convolutions compile fastest; the project's own are for compiled loops on CPUs
def train_step(params, batch_stats, opt_state, batch, dropout_key):
    def loss_fn(params):
        logits, updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            batch.images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key},
        )
        return loss(logits, batch, params).mean(), updated["batch_stats"]

    (value, new_stats), gradients = jax.value_and_grad(loss_fn, has_aux=True)(params)
    updates, opt_state = tx.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), new_stats, opt_state, value


# %%
key = jax.random.key(0)
variables = model.init(key, images[:1], train=False)
params, batch_stats = variables["params"], variables["batch_stats"]
opt_state = tx.init(params)
order = np.random.default_rng(0).permutation(len(labels))

losses = []
for number in range(20):
    chosen = order[number * config.batch_size : (number + 1) * config.batch_size]
    batch = data.Examples(images[chosen], jnp.asarray(labels[chosen], jnp.int32))
    dropout_key = jax.random.fold_in(key, number)
    params, batch_stats, opt_state, value = train_step(params, batch_stats, opt_state, batch, dropout_key)
    losses.append(float(value))

print(f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters")
for first in range(0, len(losses), 5):
    print(f"steps {first + 1:2} to {first + 5:2}: mean loss {np.mean(losses[first : first + 5]):.3f} nats")

# %% [markdown]
# ## The six experiments
#
# `digits_jax.train` trains a config to its end. The linear models are trained in full. The networks take minutes each
# on two CPU cores, so here they see a fifth of the images, for one epoch at each of their learning rates: **their
# accuracies below are not the results of the experiments**, which follow in the next section.

# %%
runs = {}
for name in EXPERIMENTS:
    config = load_config(name)
    config.dataset.name = DATASET
    if not name.startswith("linear"):
        config.epochs = (1,) * len(config.learning_rates)
        config.dataset.train_examples = len(labels) // 5 // config.batch_size * config.batch_size
    runs[name] = digits_jax.train(config, quiet=True)

pd.DataFrame(
    {
        "training images": [run.model.config.dataset.train_examples for run in runs.values()],
        "epochs": [len(run.rows) for run in runs.values()],
        "final test accuracy, %": [round(100 * run.rows[-1]["test/accuracy"], 2) for run in runs.values()],
    },
    index=list(runs),
)

# %% [markdown]
# The test images of each digit (rows) by the predicted digit (columns), for the short run of `bn_dropout`:

# %% tags=["plot"]
predictions = runs["bn_dropout"].model.predict(test_images).argmax(-1)
figure, axes = plt.subplots(figsize=(5, 5), layout="constrained")
# Colors for the errors; the diagonal is beyond their range.
colors = {"cmap": "Blues", "vmin": 0, "vmax": np.sum(predictions != test_labels) / 10}
ConfusionMatrixDisplay.from_predictions(test_labels, predictions, ax=axes, colorbar=False, im_kw=colors)
plt.show()

# %% [markdown]
# ## The full runs
#
# From here on, the numbers are those of full runs on MNIST that are committed in `docs/reproduction/results.jsonl`,
# whatever data set is used above. **As stated** is how the post's text says that it trains, and what the configs do.
# Below are the test accuracies of the final epoch, on the full and clean test set.

# %%
table = load_runs(DOCS / "reproduction")
table[["experiment", "protocol"]] = table["variant"].str.split(", ", expand=True)
table["test accuracy, %"] = 100 * table["test/accuracy"]
final = table[table["epoch"] == table.groupby(["variant", "seed"])["epoch"].transform("max")]
stated = final[final["protocol"] == "as stated"].groupby("experiment", sort=False)["test accuracy, %"]
stated.agg(["count", "mean", "std", "min", "max"]).round(2)

# %% tags=["plot"]
curves = table[table["protocol"] == "as stated"].pivot_table(
    index="epoch", columns="experiment", values="test accuracy, %", sort=False
)
(100 - curves).plot(logy=True, marker="o", markersize=3, ylabel="mean test error, %", figsize=(8, 4.5), grid=True)
plt.show()

# %% [markdown]
# ## The images that nobody gets right
#
# Each result lists the test images that its final epoch misclassifies. Some are misclassified by every run.

# %%
reproduction = read_data(DOCS)


def missed_by_all(results):
    return sorted(set.intersection(*(set(result["test_errors"]) for result in results)))


groups = {
    "all runs": [result for results in reproduction.results.values() for result in results],
    "the networks as stated": [
        result for name in list(EXPERIMENTS)[2:] for result in reproduction.results[f"{name}, as stated"]
    ],
}
for name, results in groups.items():
    missed = missed_by_all(results)
    same_data = dataset.sha256 == results[0]["dataset"]["sha256"]
    digits = f", labels {test_labels[missed].tolist()}" if same_data else ""
    print(f"{name} ({len(results)}): test images {missed}{digits}")

# %% [markdown]
# ## What the post's log really shows
#
# The post prints its losses and accuracies after each epoch. They are not those of its text. **As logged** is what its
# code did with the Keras of its time:
#
# - The learning rate never changed: assigning to `model.optimizer.lr` after the training function was built had no
#   effect. It stayed at 0.01.
# - The kernels of convolutions started smaller than Glorot's, because their shape was read in Theano's order: `vgg` and
#   `dropout` begin with a plateau.
# - Validation ran on a stream of shuffled test images, of which some came twice and others not at all; in the augmented
#   experiments, on augmented test images.
#
# How many of the printed numbers lie in the 99% prediction interval of our runs under each protocol:

# %%
score = pd.DataFrame(
    {
        protocol: {name: int(reproduction.hits(name, protocol).sum()) for name in EXPERIMENTS}
        for protocol in ("as logged", "as stated")
    }
)
score["printed"] = [reproduction.post[name].size for name in EXPERIMENTS]
score.loc["all"] = score.sum()
score

# %% [markdown]
# The log of `vgg` beside the reruns. The dashed training loss drops where the stated learning rate falls, after
# epoch 6; the post's does not.

# %% tags=["plot"]
plot_experiment(reproduction, "vgg")

# %% [markdown]
# [Reproduction](reproduction.md) has all printed numbers, the suspected causes, and which of the post's conclusions
# hold.
#
# ---
#
# This notebook is `docs/digit_recognition.py`. After `./launch.sh setup notebook`, these commands build and run it:
#
# ```bash
# jupytext --to ipynb docs/digit_recognition.py
# jupyter execute --inplace docs/digit_recognition.ipynb
# ```
