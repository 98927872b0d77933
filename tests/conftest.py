"""What the tests share: small configs, small data, and IDX files made on the spot."""

import gzip
import os
import signal
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict, FrozenConfigDict

from digits_jax import data
from digits_jax.config import get_config, resolve
from digits_jax.evaluate import evaluate
from digits_jax.experiment import build
from digits_jax.losses import LOSSES
from digits_jax.metrics import Metrics
from digits_jax.runs.checkpoint import Checkpoints, Progress, state_hash
from digits_jax.runs.history import best_row
from digits_jax.runs.result import write_result
from digits_jax.runs.workdir import Workdir, describe_run

ROOT = Path(__file__).parents[1]
TINY = """{
        "dataset.name": "optical_digits", "dataset.train_examples": 64, "batch_size": 16, "epochs": (1,),
        "learning_rates": (0.01,),
    }"""
RATES = """"low": SMALL | {"learning_rates": (0.01,)}, "high": SMALL | {"learning_rates": (0.1,)}"""

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config: pytest.Config) -> None:
    # Compiling is most of the tests' time; at this level of LLVM's, which is that of training, it takes half as long.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=1"
    if config.option.markexpr == "devices":  # has to be said before JAX first computes, and holds for all tests
        jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compilation is most of a test's time, and many tests, and the processes they start, compile the same program."""
    base = tmp_path_factory.getbasetemp()
    # The processes of pytest-xdist have folders beside each other, in the one of their session.
    folder = str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "xla")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


class StopAfterAnEpoch:
    """A writer that sends SIGTERM to its own process once the first epoch has its row."""

    def write(self, rows: list) -> None:
        if len(rows) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def close(self) -> None:
        pass


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of prepared data that the whole session shares: no test is the first, which would say so on stderr."""
    folder = tmp_path_factory.mktemp("data")
    data.load_configured(new_small_config(folder).dataset)
    return folder


def new_small_config(data_dir: Path) -> ConfigDict:
    config = get_config()
    config.dataset.name = "optical_digits"
    config.dataset.data_dir = str(data_dir)
    config.dataset.train_examples = 100
    config.model.name = "linear"
    config.learning_rates = (0.01, 0.1)
    config.epochs = (1, 1)
    config.batch_size = 16
    config.execution.steps_per_call = 2
    return config


@pytest.fixture
def small_config(data_dir: Path) -> ConfigDict:
    """Softmax regression on 100 optical digits for two epochs: seven steps each, the last one short."""
    return new_small_config(data_dir)


@pytest.fixture
def record_locations(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets runs record where their data are, as those of others may."""

    def record(data_dir: str) -> None:
        def resolve_and_keep(*arguments: Any, **options: Any) -> FrozenConfigDict:
            config = ConfigDict(resolve(*arguments, **options).to_dict())
            config.dataset.update(data_dir=data_dir, source_dir="/nowhere")
            return FrozenConfigDict(config)

        monkeypatch.setattr("digits_jax.train_loop.resolve", resolve_and_keep)

    return record


@pytest.fixture
def vgg_config(small_config: ConfigDict) -> ConfigDict:
    """The same with a thin VGG."""
    small_config.model.name = "vgg"
    small_config.model.widths = ((4,), (4,))
    small_config.model.hidden_width = 8
    small_config.execution.kernels = "lax"  # traced and compiled in a fraction of the time
    return small_config


@pytest.fixture(scope="session")
def trained(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of three epochs, to be left as it is: a thin VGG with batch normalisation.

    Its weights are drawn, which takes a fraction of the time that training takes. It was scored as any.
    """
    config = new_small_config(data_dir)
    config.model.update(name="vgg", widths=((4,), (4,)), hidden_width=8, batch_norm="after", bn_momentum=0.0)
    config.epochs = (1, 2)
    dataset = data.load_configured(config.dataset)
    resolved = resolve(config, dataset)
    experiment = build(resolved, dataset)
    shapes = jax.eval_shape(experiment.create_state, np.uint32(0))
    forward = jax.jit(partial(experiment.model.apply, train=True, mutable=["batch_stats"]))
    folder = Workdir(tmp_path_factory.mktemp("trained"))
    folder.open(resolved, dataset)
    checkpoints = Checkpoints(folder.checkpoints, folder.identity)
    rows: list[dict[str, Any]] = []
    for epoch in (1, 2, 3):
        random = np.random.default_rng(4 - epoch)  # so that the first epoch is the best
        drawn = jax.tree.map(lambda leaf, r=random: jnp.asarray(r.uniform(-0.5, 0.5, leaf.shape), leaf.dtype), shapes)
        variables = {"params": drawn.params, "batch_stats": drawn.batch_stats}
        batch_stats = forward(variables, dataset.arrays.train_images)[1]["batch_stats"]
        state = drawn.replace(seed=jnp.uint32(0), step=jnp.int32(7 * epoch), batch_stats=batch_stats)
        scores = evaluate(experiment.after_each_epoch, [state])[0]
        rows.append({"epoch": epoch, "step": 7 * epoch, **scores.metrics})
        checkpoints.save(Progress(state, Metrics.zero(), 0.0, list(rows)), best=best_row(rows, "test/accuracy")["step"])
    best = best_row(rows, "test/accuracy")
    result = {"selected_by": "test/accuracy", "final": rows[-1], "best": best, "epochs": rows}
    result |= {"test_errors": scores.misclassified["test"], "state_sha256": state_hash(state)}
    write_result(folder, {**describe_run(resolved, dataset), **result})
    folder.close()
    return folder.path


@pytest.fixture
def small_dataset(small_config: ConfigDict) -> data.Dataset:
    return data.load_configured(small_config.dataset)


@pytest.fixture
def write_sweep(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes a sweep of softmax regressions on 64 images, and returns its file."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))

    def write(
        name: str = "rates",
        *,
        doc: str = '"""Is a higher rate better?"""',
        config: str = "configs/linear.py",
        variants: str = RATES,
        baseline: str = "low",
        num_seeds: str = "2",
    ) -> str:
        path = tmp_path / f"{name}.py"
        path.write_text(
            f"{doc}\n\nfrom digits_jax.studies import Sweep\n\nSMALL = {TINY}\n\n\ndef get_sweep():\n"
            f"    return Sweep({config!r}, {{{variants}}}, baseline={baseline!r}, num_seeds={num_seeds})\n"
        )
        return str(path)

    return write


SCALED = """
import optax
from digits_jax.bounds import POSITIVE
from digits_jax.config import Field, experiment
from digits_jax.losses import LOSSES


def scaled(*, factor=2.0):
    return lambda logits, batch, params: factor * optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)


LOSSES["scaled"] = scaled
LOSSES.arguments["factor"] = Field(float, POSITIVE, "of the loss")


@experiment(base="linear")
def get_config(config):
    config.loss.name = "scaled"
"""


def forget_the_loss() -> None:
    for table in (LOSSES, LOSSES.files, LOSSES.arguments):
        for name in ("scaled", "factor"):
            table.pop(name, None)


@pytest.fixture
def own_loss(tmp_path: Path) -> Iterator[str]:
    """The config file of a loss with an argument of its own."""
    (tmp_path / "scaled.py").write_text(SCALED)
    yield str(tmp_path / "scaled.py")
    forget_the_loss()


@pytest.fixture(scope="session")
def parsed_flags() -> None:
    """For a command's `main` that is called in this process: its flags have their defaults."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["test"])


@pytest.fixture(scope="session")
def mnist_source() -> Path:
    """A folder with the real MNIST as IDX files."""
    folder = os.environ.get("DIGITS_JAX_MNIST_DIR")
    if not folder:
        pytest.skip("needs real MNIST: set DIGITS_JAX_MNIST_DIR to a folder with its four IDX files")
    return Path(folder)


def idx_bytes(array: np.ndarray) -> bytes:
    """A uint8 array in IDX format."""
    return struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def idx_files() -> dict[str, bytes]:
    """Four IDX files of 30 and 20 random images, by their original names, unpacked."""
    random = np.random.default_rng(0)
    files = {}
    for split, count in (("train", 30), ("t10k", 20)):
        images = random.integers(0, 256, (count, 28, 28), np.uint8)
        labels = random.integers(0, 10, count).astype(np.uint8)
        files[f"{split}-images-idx3-ubyte"] = idx_bytes(images)
        files[f"{split}-labels-idx1-ubyte"] = idx_bytes(labels)
    return files


@pytest.fixture
def write_idx(tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    """Writes IDX files gzipped, as they are distributed, and returns their folder."""

    def write(files: dict[str, bytes]) -> Path:
        folder = tmp_path / "idx"
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        return folder

    return write
