"""Invariants 1 and 2: every config is complete and runs; every field is read and no undeclared one is."""

import ast
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from digits_jax import data
from digits_jax.config import ARGUMENTS, SECTIONS, get_config, load_config, resolve, validate
from digits_jax.data import Examples
from digits_jax.errors import ConfigError
from digits_jax.experiment import build
from digits_jax.metrics import Metrics
from digits_jax.runs.identity import differences

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
OURS, LOG = ("fast", "strong", "best", "tiny"), "as_logged"  # configs that no post has logged


def field_names(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from field_names(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        *((name, argument) for name in CONFIGS for argument in ("", *ARGUMENTS) if name not in OURS or argument != LOG),
        ("fast", "sprint"),
    ],
)
def test_config_is_complete(name: str, argument: str) -> None:
    config = load_config(f"{name}:{argument}")
    assert list(field_names(config)) == list(field_names(get_config()))
    validate(config)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in ("best", "strong") else n for n in CONFIGS]
)
def test_config_takes_one_step(name: str, data_dir: Path) -> None:
    config = load_config(name)
    config.dataset.update({"name": "optical_digits", "data_dir": str(data_dir), "train_examples": 64})
    config.batch_size = 64
    if name != "bn_dropout":
        config.execution.kernels = "lax"  # is traced and compiled in a fraction of the time
    dataset = data.load_configured(config.dataset)
    experiment = build(resolve(config, dataset), dataset)
    examples = Examples(jnp.asarray(dataset.arrays.train_images[:4]), jnp.arange(4))
    batches = jnp.arange(4)[None]  # four images, so that compiling is all that takes time
    before = jax.device_get(experiment.create_state(np.uint32(0)))
    state, metrics = experiment.train_steps(
        experiment.create_state(np.uint32(0)), Metrics.zero(), examples, batches, 0, 1
    )
    assert int(state.step) == 1
    assert int(metrics.count) == 4
    changed = jax.tree.map(lambda old, new: bool((old != new).any()), before.params, state.params)
    assert any(jax.tree.leaves(changed))


@pytest.mark.parametrize("name", ["vgg", *OURS])
def test_unknown_argument_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown config argument 'smok'.*'smoke'"):
        load_config(f"{name}:smok")
    if name in OURS:
        with pytest.raises(ConfigError, match="the post has no log of this config"):
            load_config(f"{name}:{LOG}")


def test_an_experiment_imports_only_the_config_module() -> None:
    for name in CONFIGS:
        tree = ast.parse((ROOT / "configs" / f"{name}.py").read_text())
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        assert [getattr(node, "module", None) for node in imports] == ["digits_jax.config"], name


def attribute_chains(tree: ast.AST) -> Iterator[list[str]]:
    """Every `a.b.c` of a module, as its names."""
    for node in ast.walk(tree):
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        if names and isinstance(node, ast.Name):
            yield [node.id, *reversed(names)]


def test_fields_are_declared_and_read() -> None:
    declared = set(field_names(get_config()))
    sections = {"config": "", **{f"{name}_config": f"{name}." for name in ("dataset", "model", "augment", "loss")}}
    read = set()
    for path in (ROOT / "digits_jax").rglob("*.py"):
        tree = ast.parse(path.read_text())
        for chain in attribute_chains(tree):
            start = next((i for i, name in enumerate(chain) if name in sections and chain[0] != "jax"), None)
            if start is None:
                continue
            fields = [name for name in chain[start + 1 :] if name != "value" and not hasattr(ConfigDict, name)]
            if not fields:
                continue
            field = sections[chain[start]] + ".".join(fields)
            known = field in declared or any(d.startswith(f"{field}.") or field.startswith(f"{d}.") for d in declared)
            assert known, f"{path.relative_to(ROOT)} reads config.{field}, which digits_jax/config.py does not declare"
            if path.name != "config.py":  # checking a field is not using it
                read.add(field)
    # Arguments are read by the entries that have a parameter of their name.
    read |= {f"{s}.{key}" for s, table in SECTIONS.items() for entry in table for key in table.defaults(entry)}
    assert {field for field in declared - read if not field.endswith("_sha256")} == set()


EXPERIMENTS = ["linear", "linear_augmented", "vgg", "vgg_augmented", "dropout", "bn_dropout"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_as_logged_changes_the_schedule_the_initial_weights_and_what_is_scored(name: str) -> None:
    stated, logged = load_config(name), load_config(f"{name}:as_logged")
    assert logged.learning_rates == (0.01,)
    assert logged.epochs == ((16,) if name == "bn_dropout" else (11,))
    assert logged.model.kernel_init == "keras1_uniform"
    changed = [field for field, *_ in differences(logged.to_dict(), stated.to_dict())]
    assert changed == ["epochs", "learning_rates", "model.kernel_init", "test_stream"]


def test_the_posts_augmentation() -> None:
    for name in EXPERIMENTS:
        augment = load_config(name).augment
        ranges = (augment.rotation, augment.height_shift, augment.width_shift, augment.shear, augment.zoom)
        augmented = name.endswith("augmented")
        assert ranges == ((8.0, 0.08, 0.08, 0.3, 0.08) if augmented else (None,) * 5)
        assert augment.test == augmented


@pytest.mark.parametrize("name", ["fast", "fast.py", "configs/fast.py"])
def test_an_unknown_argument_is_answered_with_those_of_the_experiment(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # without a directory `configs`
    assert load_config(f"{name}:sprint").epochs == (1,)
    with pytest.raises(
        ConfigError, match=r"unknown config argument 'foo': expected one of \['sprint', 'as_logged', 's"
    ):
        load_config(f"{name}:foo")


def test_an_existing_file_comes_before_an_experiment_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "fast.py"
    file.write_text(
        "from digits_jax.config import get_config as defaults\n\nget_config = lambda argument: defaults()\n"
    )
    assert load_config("fast.py").epochs == get_config().epochs
    assert load_config("fast").epochs == (3,)
    with pytest.raises(ConfigError, match=r"config file .own/fast.py. not found"):
        load_config("own/fast.py")
