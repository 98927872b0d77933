"""The pure core: the training state, one training step, and a chunk of steps as one compiled call."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax import lax
from jax.sharding import Mesh

from digits_jax import ops, parallel
from digits_jax.augment import Augment
from digits_jax.averaging import averaged_params
from digits_jax.data import Examples
from digits_jax.losses import Loss
from digits_jax.metrics import METRICS, Metrics
from digits_jax.transfer import check_frozen, keep_frozen, take_fitting


class TrainState(struct.PyTreeNode):
    """The state of training, with the seed of its random numbers: states of several seeds can be stacked."""

    seed: jax.Array  # uint32 []
    step: jax.Array  # int32 [], steps taken
    params: Any
    batch_stats: Any  # running means and variances; {} for a model without batch normalization
    opt_state: optax.OptState

    @property
    def eval_variables(self) -> dict[str, Any]:
        """The variables that evaluation takes, with averaged weights if the optimizer keeps an average."""
        return {"params": averaged_params(self.params, self.opt_state), "batch_stats": self.batch_stats}


class Recipe(NamedTuple):
    """The parts of a training step, besides its state and batch."""

    model: nn.Module
    tx: optax.GradientTransformation
    augment: Augment
    loss: Loss
    microbatch_size: int  # images per gradient; see `compute_gradients`
    freeze: tuple[str, ...] = ()  # patterns of modules whose statistics stay, see `transfer.is_frozen`
    metrics: tuple[str, ...] = ()  # of `METRICS`


class Keys(NamedTuple):
    """Independent random streams; what a step draws is a function of (stream, step)."""

    init: jax.Array
    order: jax.Array
    dropout: jax.Array
    augment: jax.Array
    test_augment: jax.Array
    test_stream: jax.Array


@jax.jit
def create_keys(seed: int | jax.Array) -> Keys:
    """Returns the streams of a seed. Each is folded in by its own number, so that a new stream changes no other."""
    root = ops.threefry.key(seed)
    return Keys(*(jax.random.fold_in(root, number) for number in range(len(Keys._fields))))


def create_train_state(
    recipe: Recipe, seed: jax.Array, *, image_shape: tuple[int, ...], pretrained: Any = None
) -> TrainState:
    """Returns the initial state for `(H, W, C)` images, with `pretrained` variables where names and shapes fit."""
    init_key = ops.threefry.in_loops(create_keys(seed).init)
    variables = recipe.model.init(init_key, jnp.zeros((1, *image_shape)), train=False)
    check_frozen(variables["params"], recipe.freeze)
    if pretrained:
        variables = take_fitting(variables, pretrained)[0]
    return TrainState(
        seed=seed,
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=recipe.tx.init(variables["params"]),
    )


def train_step(state: TrainState, batch: Examples, recipe: Recipe) -> tuple[TrainState, Metrics]:
    """Takes one step down the gradient of the batch's mean loss.

    Returns:
      The state after the step, and the batch's metrics as computed on the way: with dropout, before the update.
    """
    keys = create_keys(state.seed)
    batch = recipe.augment(jax.random.fold_in(keys.augment, state.step), batch)
    dropout_key = jax.random.fold_in(keys.dropout, state.step)
    gradients, metrics, batch_stats = compute_gradients(state, batch, dropout_key, recipe)
    updates, opt_state = recipe.tx.update(gradients, state.opt_state, state.params)
    more = {name: METRICS[name](gradients, updates, state.params) * metrics.count for name in recipe.metrics}
    batch_stats = keep_frozen(state.batch_stats, batch_stats, recipe.freeze)
    return state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
    ), metrics.replace(more=more)


def compute_gradients(
    state: TrainState, batch: Examples, dropout_key: jax.Array, recipe: Recipe
) -> tuple[Any, Metrics, Any]:
    """Computes the gradients of the batch's mean loss, its metrics and the new batch statistics.

    Where `microbatch_size` divides the batch, gradients are accumulated over parts of that size, whose activations fit
    a CPU's cache; each part draws its own dropout. Batch normalization needs the statistics of the whole batch.
    """
    batch_size = len(batch.labels)

    def loss_fn(params: Any, part: Examples, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, Any]]:
        logits, updates = recipe.model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            part.images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        loss = recipe.loss(logits, part, params).sum() / batch_size
        return loss, (Metrics.of_batch(logits, part.labels), updates.get("batch_stats", {}))

    gradient = jax.grad(loss_fn, has_aux=True)
    size = recipe.microbatch_size
    if state.batch_stats or batch_size % size or batch_size == size:
        gradients, (metrics, batch_stats) = gradient(state.params, batch, dropout_key)
        return gradients, metrics, batch_stats

    def add(sums: Any, part: tuple[Examples, jax.Array]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, gradient(state.params, *part)), None

    # Every n-th image: a part has equally many from each device's shard of the batch.
    parts = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]).swapaxes(0, 1), batch)
    keys = jax.random.split(dropout_key, batch_size // size)
    zeros = jax.tree.map(jnp.zeros_like, state.params), (Metrics.zero(), state.batch_stats)
    (gradients, (metrics, batch_stats)), _ = lax.scan(add, zeros, (parts, keys))
    return gradients, metrics, batch_stats


TrainSteps = Callable[[TrainState, Metrics, Examples, jax.Array, int, int], tuple[TrainState, Metrics]]


def make_train_steps(recipe: Recipe, *, mesh: Mesh, kernels: str = "auto", stacked: bool = False) -> TrainSteps:
    """Compiles a chunk of training steps into one call.

    Args:
      recipe: as for `train_step`.
      mesh: the devices that share each batch.
      kernels: the convolutions, see `ops.using`.
      stacked: whether state, metrics and batches are those of several seeds, along a leading axis.

    Returns:
      `train_steps(state, metrics, examples, batches, start, stop)`: takes the steps `start` to `stop` (exclusive) of
      `batches`, integers `[num_batches, B]` that index `examples`, and adds their metrics to `metrics`. The state
      is donated. `start` and `stop` are not compiled in, so that a step is the same machine code whatever chunk it is
      part of: this makes a resumed run bit-identical. The seed is part of the state, so that all seeds share a program.
    """

    def train_steps(
        state: TrainState, metrics: Metrics, examples: Examples, batches: jax.Array, start: int, stop: int
    ) -> tuple[TrainState, Metrics]:
        def body(index: jax.Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, metrics = carry
            batch = gather(examples, batches[index], mesh)
            state, batch_metrics = train_step(state, batch, recipe)
            return state, metrics + batch_metrics

        with ops.using(kernels, vmapped=stacked):
            return lax.fori_loop(start, stop, body, (state, metrics))

    if stacked:
        train_steps = jax.vmap(train_steps, in_axes=(0, 0, None, 0, None, None), spmd_axis_name="seed")
    return ops.jit(train_steps, donate_argnums=0)


def gather(examples: Examples, indices: jax.Array, mesh: Mesh) -> Examples:
    """Returns the examples at the indices `[B]`, sharded over the devices where these divide B, else replicated."""
    indices = parallel.shard_batch(indices, mesh)
    return parallel.shard_batch(Examples(examples.images[indices], examples.labels[indices]), mesh)
