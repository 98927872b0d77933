"""The pure core: one training step, a chunk of them in one compiled call, and evaluation.

Everything here is a function of its arguments; the effects are in `train.py`. The images stay on the device as uint8,
and a batch is a row of indices into them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax import lax
from jax.sharding import Mesh

from digits_jax import averaging, ops
from digits_jax.augment import Augment
from digits_jax.losses import Loss
from digits_jax.metrics import Metrics
from digits_jax.ops import threefry
from digits_jax.parallel.mesh import shard_batch
from digits_jax.views import over_views


class TrainState(struct.PyTreeNode):
    """What training changes, and the seed of its draws: states of several seeds can be stacked and `vmap`ped over."""

    seed: jax.Array  # uint32 []
    step: jax.Array  # int32 [], steps taken
    params: Any
    batch_stats: Any  # running means and variances; {} for a model without batch normalisation
    opt_state: optax.OptState

    @property
    def scored(self) -> Any:
        """The variables that evaluation takes: with the average of the weights, if there is one."""
        return averaging.scored(self.params, self.batch_stats, self.opt_state)


class Keys(NamedTuple):
    """Independent random streams; what a step draws is a function of (stream, step)."""

    init: jax.Array
    order: jax.Array
    dropout: jax.Array
    augment: jax.Array
    test_augment: jax.Array
    test_stream: jax.Array


class Examples(NamedTuple):
    """Labelled images on the device."""

    images: jax.Array  # uint8 [N, H, W, C]
    labels: jax.Array  # int32 [N]
    mask: jax.Array | None = None  # bool [N], false where a batch was filled up; None: all count


def create_keys(seed: int | jax.Array) -> Keys:
    """The streams of one seed. Each is folded in by its own number, so that a new stream changes no other."""
    root = threefry.key(seed)
    return Keys(*(jax.random.fold_in(root, number) for number in range(len(Keys._fields))))


def create_train_state(
    model: nn.Module, tx: optax.GradientTransformation, seed: jax.Array, *, image_shape: tuple[int, ...]
) -> TrainState:
    """A new state for `(H, W, C)` images."""
    variables = model.init(threefry.in_loops(create_keys(seed).init), jnp.zeros((1, *image_shape)), train=False)
    params = variables["params"]
    return TrainState(
        seed=seed,
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=tx.init(params),
    )


def train_step(
    state: TrainState,
    batch: Examples,
    *,
    model: nn.Module,
    tx: optax.GradientTransformation,
    augment: Augment,
    loss: Loss,
    microbatch_size: int,
) -> tuple[TrainState, Metrics]:
    """One step down the gradient of the batch's mean loss.

    Args:
      state: the state before the step.
      batch: images `[B, H, W, C]` and labels `[B]`; where its mask is false, an example counts for nothing.
      model: takes `(images, train)`.
      tx: the optimizer that made `state.opt_state`.
      augment: takes a key and the images.
      loss: takes the logits and the labels.
      microbatch_size: the gradient is summed over so many images at a time where they divide the batch, which keeps
        activations in the cache of a CPU; each part draws its own dropout. A model with batch normalisation needs the
        statistics of the whole batch, and takes it at once.

    Returns:
      The state after the step, and the batch's metrics, computed on the way (with dropout, before the update).
    """
    keys = create_keys(state.seed)
    batch = batch._replace(images=augment(jax.random.fold_in(keys.augment, state.step), batch.images))
    dropout_key = jax.random.fold_in(keys.dropout, state.step)

    def loss_fn(params: Any, part: Examples, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, Any]]:
        logits, updates = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            part.images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        metrics = Metrics.of_batch(logits, part.labels, part.mask)
        return loss(logits, part.labels).sum(where=part.mask) / count, (metrics, updates.get("batch_stats", {}))

    batch_size = len(batch.labels)
    count = batch_size if batch.mask is None else batch.mask.sum()
    gradient = jax.grad(loss_fn, has_aux=True)
    if state.batch_stats or batch_size % microbatch_size or batch_size == microbatch_size:
        gradients, (metrics, batch_stats) = gradient(state.params, batch, dropout_key)
    else:

        def add(sums: Any, part: tuple[Examples, jax.Array]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, sums, gradient(state.params, *part)), None

        # Every n-th image: a part has as many from each device that holds a stretch of the batch.
        parts = jax.tree.map(lambda x: x.reshape(microbatch_size, -1, *x.shape[1:]).swapaxes(0, 1), batch)
        part_keys = jax.random.split(dropout_key, batch_size // microbatch_size)
        zeros = jax.tree.map(jnp.zeros_like, state.params), (Metrics.zero(), state.batch_stats)
        (gradients, (metrics, batch_stats)), _ = lax.scan(add, zeros, (parts, part_keys))
    updates, opt_state = tx.update(gradients, state.opt_state, state.params)
    return state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
    ), metrics


TrainSteps = Callable[[TrainState, Metrics, Examples, jax.Array, int, int], tuple[TrainState, Metrics]]


def make_train_steps(
    *,
    model: nn.Module,
    tx: optax.GradientTransformation,
    augment: Augment,
    loss: Loss,
    microbatch_size: int,
    mesh: Mesh,
    stacked: bool = False,
    kernels: str = "auto",
) -> TrainSteps:
    """Compiles a chunk of training steps into one call.

    Args:
      model, tx, augment, loss, microbatch_size: as for `train_step`.
      mesh: of the devices that share each batch.
      stacked: whether state, metrics and batches are those of several replicas, along a leading axis.
      kernels: as for `ops.using`.

    Returns:
      `train_steps(state, metrics, examples, batches, start, stop)`: takes the steps `start` to `stop` (exclusive) of
      `batches`, integers `[num_batches, B]` that index `examples`, and adds their metrics to `metrics`. The state
      is donated. `start` and `stop` are not compiled in, so that a step is the same machine code whatever
      chunk it falls into: this is what makes a resumed run bit-identical. The seed is part of the state, so that all
      seeds share a program.
    """

    def train_steps(
        state: TrainState, metrics: Metrics, examples: Examples, batches: jax.Array, start: int, stop: int
    ) -> tuple[TrainState, Metrics]:
        def body(index: jax.Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, metrics = carry
            batch = _gather(examples, batches[index], mesh)
            state, batch_metrics = train_step(
                state, batch, model=model, tx=tx, augment=augment, loss=loss, microbatch_size=microbatch_size
            )
            return state, metrics + batch_metrics

        return lax.fori_loop(start, stop, body, (state, metrics))

    train_steps = ops.using(kernels, vmapped=stacked)(train_steps)
    if stacked:
        train_steps = jax.vmap(train_steps, in_axes=(0, 0, None, 0, None, None), spmd_axis_name="seed")
    return ops.jit(train_steps, donate_argnums=0)


def _gather(examples: Examples, rows: jax.Array, mesh: Mesh) -> Examples:
    """The batch of these rows `[B]`, shared by the devices where they can do so evenly."""
    rows = shard_batch(rows, mesh)
    return Examples(*shard_batch((examples.images[rows], examples.labels[rows]), mesh))


EvalSteps = Callable[[TrainState, Examples], tuple[Metrics, jax.Array]]
Order = Callable[[jax.Array, int], jax.Array]  # Takes a key and N; returns N indices into as many examples.


def each_once(key: jax.Array, num_examples: int) -> jax.Array:
    return jnp.arange(num_examples)


def make_eval_steps(
    *,
    model: nn.Module,
    batch_size: int,
    augment: Augment,
    mesh: Mesh,
    order: Order = each_once,
    views: str = "one",
    stacked: bool = False,
    kernels: str = "auto",
) -> EvalSteps:
    """Compiles the evaluation of a whole set; of several states along a leading axis where they are `stacked`.

    Returns:
      `eval_steps(state, examples)`: the metrics over all N examples in `order`, and whether each of these is classified
      wrongly, bool `[N]`. The last batch is filled up with copies that are cut off again. What `augment` and `order`
      draw is a function of the state's seed and step.
    """

    def eval_steps(state: TrainState, examples: Examples) -> tuple[Metrics, jax.Array]:
        num_examples = len(examples.labels)
        size = min(batch_size, num_examples)
        keys = create_keys(state.seed)
        indices = order(jax.random.fold_in(keys.test_stream, state.step), num_examples)
        labels = examples.labels[indices]
        filled_up = jnp.minimum(jnp.arange(-(-num_examples // size) * size), num_examples - 1)
        rows = indices[filled_up].reshape(-1, size)
        key = jax.random.fold_in(keys.test_augment, state.step)

        answer = over_views(partial(model.apply, state.scored, train=False), views)

        def logits_of(batch: tuple[jax.Array, jax.Array]) -> Any:
            index, rows = batch
            images = augment(jax.random.fold_in(key, index), _gather(examples, rows, mesh).images)
            return answer(images)

        batches = lax.map(logits_of, (jnp.arange(len(rows)), rows))
        logits = batches.reshape(rows.size, -1)[:num_examples]
        return Metrics.of_batch(logits, labels), logits.argmax(-1) != labels

    eval_steps = ops.using(kernels, vmapped=stacked)(eval_steps)
    if stacked:
        eval_steps = jax.vmap(eval_steps, in_axes=(0, None), spmd_axis_name="seed")
    return ops.jit(eval_steps)
