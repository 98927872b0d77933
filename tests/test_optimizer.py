"""The schedule at its boundaries, and the update."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from digits_jax import optimizer
from digits_jax.config import get_config, load_config, override, validate
from digits_jax.errors import ConfigError

EPOCH_STEPS = 938  # 60,000 images in batches of 64, the last one of 32


def test_steps_per_epoch() -> None:
    assert [optimizer.steps_per_epoch(n, 64) for n in (60_000, 64, 63, 65)] == [938, 1, 1, 2]


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("vgg", {0: 0.01, 937: 0.01, 938: 0.1, 939: 0.1, 5627: 0.1, 5628: 0.01, 5629: 0.01, 10317: 0.01}),
        (
            "bn_dropout",
            {937: 0.01, 938: 0.1, 5627: 0.1, 5628: 0.01, 10317: 0.01, 10318: 0.001, 10319: 0.001, 15007: 0.001},
        ),
    ],
)  # fmt: skip
def test_schedule_around_its_boundaries(name: str, rates: dict[int, float]) -> None:
    config = load_config(name)
    schedule = optimizer.create_schedule(config, EPOCH_STEPS)
    assert {step: float(schedule(step)) for step in rates} == pytest.approx(rates, rel=1e-6)


def test_a_constant_rate() -> None:
    config = get_config()
    config.learning_rates, config.epochs = (0.05,), (3,)
    schedule = optimizer.create_schedule(config, 10)
    assert [float(schedule(step)) for step in (0, 9, 10, 29)] == pytest.approx([0.05] * 4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cosine", {0: 0.1, 10: 0.075, 15: 0.05, 30: 0.0}),  # 0.1 (1 + cos(pi t / 30)) / 2
        ("linear", {0: 0.1 / 6, 5: 0.1, 6: 0.1, 18: 0.05, 29: 0.1 / 24}),  # up in 6 steps, down in 24
        ("one_cycle", {0: 0.004, 9: 0.1, 30: 4e-7}),  # a 25th; the peak after 30 %; a 250,000th
    ],
)
def test_schedules_with_one_rate(name: str, expected: dict[int, float]) -> None:
    config = get_config()
    config.schedule.name, config.learning_rates, config.epochs = name, (0.1,), (3,)
    schedule = optimizer.create_schedule(config, 10)
    assert {step: float(schedule(step)) for step in expected} == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_nesterov_looks_ahead() -> None:
    config = get_config()
    config.optimizer.name, config.learning_rates, config.epochs = "nesterov", (1.0,), (1,)
    tx = optimizer.create_optimizer(config, 2)
    gradient = {"w": jnp.array([1.0])}
    state = tx.init(gradient)
    for expected in (-1.9, -2.71):  # g + 0.9 v for v = g, then v = g + 0.9 v
        updates, state = tx.update(gradient, state)
        assert updates["w"].tolist() == pytest.approx([expected])


def test_plain_gradient_descent() -> None:
    config = get_config()
    config.learning_rates, config.epochs = (0.5, 0.25), (1, 1)
    tx = optimizer.create_optimizer(config, 1)
    params = {"w": jnp.array([1.0, 2.0])}
    state = tx.init(params)
    gradients = {"w": jnp.array([2.0, -4.0])}
    for expected in ([-1.0, 2.0], [-0.5, 1.0]):
        updates, state = tx.update(gradients, state, params)
        assert updates["w"].tolist() == expected


PARAMS = {"Dense_0": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}, "Conv_0": {"kernel": jnp.ones((2, 2, 1, 1))}}


def first_update(gradient: float = 1.0, **fields: Any) -> dict[str, Any]:
    """Returns the update of each of `PARAMS` after one step with equal gradients and a learning rate of 0.1."""
    config = get_config()
    override(config, {"learning_rates": (0.1,), "epochs": (1,), **fields})
    validate(config)
    tx = optimizer.create_optimizer(config, 10)
    gradients = jax.tree.map(lambda leaf: jnp.full_like(leaf, gradient), PARAMS)
    updates, _ = tx.update(gradients, tx.init(PARAMS), PARAMS)
    return flatten_dict(jax.tree.map(lambda leaf: leaf.mean().item(), updates), sep="/")


@pytest.mark.parametrize("name", optimizer.OPTIMIZERS)
def test_every_optimizer_goes_down_the_gradient(name: str) -> None:
    assert all(update < 0 for update in first_update(**{"optimizer.name": name}).values())


@pytest.mark.parametrize(
    ("name", "argument"), [(name, key) for name in optimizer.OPTIMIZERS for key in optimizer.OPTIMIZERS.defaults(name)]
)
def test_every_argument_changes_the_update_or_those_after_it(name: str, argument: str) -> None:
    values = {"nesterov": True, "momentum": 0.5, "b1": 0.99, "eps": 0.5, "weight_decay": 0.3, "weight_decay_rate": 0.3}

    def third_update(**fields: Any) -> list[float]:
        config = get_config()
        if argument == "nesterov":
            fields["optimizer.momentum"] = 0.5 if name in ("sgd", "rmsprop") else None
        override(config, {"optimizer.name": name, "learning_rates": (0.1,), "epochs": (1,), **fields})
        tx = optimizer.create_optimizer(config, 10)
        leaves, structure = jax.tree.flatten(PARAMS)
        random = np.random.default_rng(0)
        draw = lambda: structure.unflatten([jnp.asarray(random.normal(size=leaf.shape)) for leaf in leaves])  # noqa: E731
        params, state = draw(), tx.init(PARAMS)
        for _ in range(3):
            updates, state = tx.update(draw(), state, params)
        return [value for leaf in jax.tree.leaves(updates) for value in leaf.ravel().tolist()]

    default = optimizer.OPTIMIZERS.defaults(name)[argument]
    value = not default if isinstance(default, bool) else values.get(argument, 0.2)
    assert third_update(**{f"optimizer.{argument}": value}) != third_update()


def test_weight_decay_leaves_biases_alone_unless_told_otherwise() -> None:
    without = first_update(**{"optimizer.name": "adamw", "optimizer.weight_decay": 0.0})
    kernels = first_update(**{"optimizer.name": "adamw", "optimizer.weight_decay": 0.5})
    everything = first_update(**{"optimizer.name": "adamw", "optimizer.weight_decay": 0.5, "optimizer.decayed": "all"})
    change = {path: round(without[path] - kernels[path], 5) for path in without}  # rate x decay x parameter
    assert change == {"Conv_0/kernel": 0.05, "Dense_0/bias": 0.0, "Dense_0/kernel": 0.05}
    assert {round(without[path] - everything[path], 5) for path in without} == {0.05}
    assert first_update(**{"optimizer.weight_decay": 0.5})["Dense_0/kernel"] == pytest.approx(-0.15)  # of SGD


def test_gradients_are_clipped_by_their_global_norm() -> None:
    updates = first_update(10.0, **{"optimizer.clip_norm": 1.0})  # twelve equal gradients
    assert list(updates.values()) == pytest.approx([-0.1 / 12**0.5] * 3)
    assert list(first_update(0.1, **{"optimizer.clip_norm": 1.0}).values()) == pytest.approx([-0.01] * 3)


def test_accumulated_gradients_make_one_update_at_the_rate_of_its_step() -> None:
    config = get_config()
    override(config, {"learning_rates": (0.5, 0.25), "epochs": (1, 1), "optimizer.accumulate_steps": 2})
    tx = optimizer.create_optimizer(config, 2)
    params = {"w": jnp.array(1.0)}
    state, updates = tx.init(params), []
    for gradient in (1.0, 3.0, 2.0, 4.0):
        update, state = tx.update({"w": jnp.array(gradient)}, state, params)
        updates.append(update["w"].item())
    assert updates == [0.0, -1.0, 0.0, -0.75]


@pytest.mark.parametrize("name", ["piecewise_constant", "cosine", "linear", "one_cycle"])
def test_every_schedule_warms_up_for_a_fraction_of_the_steps(name: str) -> None:
    config = get_config()
    override(config, {"schedule.name": name, "learning_rates": (0.1,), "epochs": (2,), "schedule.warmup_fraction": 0.5})
    rates = [float(optimizer.create_schedule(config, 10)(step)) for step in range(20)]
    assert rates[:9] == sorted(rates[:9])
    assert max(rates) == pytest.approx(0.1)
    assert rates[0] < 0.02
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_nesterov_without_momentum_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"config.optimizer.nesterov is True: expected config.optimizer.momentum"):
        first_update(**{"optimizer.nesterov": True})


def test_frozen_parameters_stay() -> None:
    updates = first_update(freeze=("Conv_*", "*/bias"), **{"optimizer.name": "adam"})
    assert [path for path, update in updates.items() if update] == ["Dense_0/kernel"]
