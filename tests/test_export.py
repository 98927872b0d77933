"""Exported files, loaded by the programs that they are for."""

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export

from digits_jax import load_model
from digits_jax.apps.export.formats import FORMATS, TOLERANCE, Agreement, export_model, reference
from digits_jax.apps.export.model_card import build_model_card
from digits_jax.errors import UserError
from digits_jax.runs.trained_model import TrainedModel

_NEEDED = {"stablehlo": ["flatbuffers"], "onnx": ["onnx", "onnxruntime"], "npz": []}


@pytest.fixture(scope="module")
def model(trained: Path) -> TrainedModel:
    return load_model(trained)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (70, 28, 28, 1), np.uint8)


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_loads_as_its_model_card_says(
    name: str, model: TrainedModel, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in _NEEDED[name]:
        pytest.importorskip(package)
    agreement = export_model(model, name, tmp_path / f"model.{name}", images)
    assert [path.name for path in tmp_path.iterdir()] == [f"model.{name}"]
    assert (agreement.num_images, agreement.changed) == (70, 0)
    assert agreement.difference < TOLERANCE
    card = build_model_card(model, agreement, format_name=name, file_name=f"model.{name}", checked_on="random images")
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code
    assert code[1].count("\n") == 3
    monkeypatch.chdir(tmp_path)
    variables = {"images": images[:3]}
    exec(code[1], variables)  # a new user's three lines
    if name == "npz":
        arrays = variables["arrays"]
        np.testing.assert_array_equal(arrays["params/Conv_0/kernel"], model.variables["params"]["Conv_0"]["kernel"])
        assert "batch_stats/BatchNorm_0/mean" in arrays
        assert variables["config"] == model.run["config"]
        assert str(variables["arrays"]["architecture"]) in card
        assert "float32." not in card
    else:
        np.testing.assert_allclose(np.asarray(variables["probabilities"]), model.predict(images[:3]), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "stablehlo"])
def test_test_time_augmentation_and_bfloat16(
    name: str, model: TrainedModel, images: np.ndarray, tmp_path: Path
) -> None:
    for package in _NEEDED[name]:
        pytest.importorskip(package)
    config = {**model.config.to_dict(), "test_time_augmentation": "shifts"}
    config["model"]["dtype"] = "bfloat16"
    of_run = TrainedModel({**model.run, "config": config}, model.variables, step=model.step, metrics=model.metrics)
    agreement = export_model(of_run, name, tmp_path / "model", images)
    found = FORMATS[name].load(tmp_path / "model")(images[:3])
    np.testing.assert_allclose(found, of_run.predict(images[:3]), atol=0.05)
    assert np.abs(found - model.predict(images[:3])).max() > 10 * TOLERANCE  # of one version
    card = build_model_card(of_run, agreement, format_name=name, file_name="model", checked_on="random images")
    assert "of the run, which computes in bfloat16; the file was compared in float32." in card


def test_the_program_in_a_stablehlo_file(model: TrainedModel, images: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("flatbuffers")
    export_model(model, "stablehlo", tmp_path / "model", images)
    exported = jax_export.deserialize(bytearray((tmp_path / "model").read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert f" JAX {jax.__version__}, which exported it, or newer" in FORMATS["stablehlo"].interface
    assert str(exported.in_avals[0]) == "uint8[batch,28,28,1]"
    program = exported.mlir_module()
    convolutions = [line for line in program.splitlines() if "stablehlo.convolution" in line]
    assert len(convolutions) == 2 * 3
    assert all(line.count("HIGHEST") == 2 for line in convolutions)
    assert "custom_call" not in program.replace("stablehlo.custom_call @shape_assertion", "")
    assert "gather" not in program


def test_a_file_that_disagrees_with_the_model_is_deleted(
    model: TrainedModel, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = reference(model)
    for wrong in (lambda p: p + 2e-5, lambda p: p * np.nan, lambda p: p[:, ::-1]):
        altered = FORMATS["npz"]._replace(load=lambda path, wrong=wrong: lambda x: wrong(honest(x)))
        monkeypatch.setitem(FORMATS, "npz", altered)
        with pytest.raises(UserError, match=r"the reloaded npz file disagrees with the model: .* exported$"):
            export_model(model, "npz", tmp_path / "model.npz", images)
        assert list(tmp_path.iterdir()) == []


def test_an_extra_that_is_not_installed(
    model: TrainedModel, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    message = "--to=onnx needs the extra 'export': pip install 'digits_jax[export]' or ./launch.sh setup export"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        export_model(model, "onnx", tmp_path / "model.onnx", images)


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (lambda x: jnp.sin(x.astype(jnp.float32)).sum((1, 2)), "sin"),
        (lambda x: x.astype(jnp.float32).reshape(28 * x.shape[0], 28), "reshape"),
        (lambda x: x.astype(jnp.bfloat16), "convert_element_type"),
        (lambda x: x.astype(jnp.float32) * x.shape[0], "dim_as_value"),
        (lambda x: jax.lax.pad(x.astype(jnp.float32), 0.0, ((0, 0, 0), (0, 0, 1), (0, 0, 0), (0, 0, 0))), "pad"),
        (lambda x: jax.lax.rev(x.astype(jnp.float32), (1,)), "rev"),
        (lambda x: jax.lax.dot_general(x.astype(jnp.float32), jnp.ones((28, 2)), (((1,), (0,)), ((), ()))), "dot"),
        (
            lambda x: jax.lax.conv_general_dilated(
                x.astype(jnp.float32), jnp.ones((3, 3, 1, 2)), (1, 1), "VALID",
                rhs_dilation=(2, 2), dimension_numbers=("NHWC", "HWIO", "NHWC"),
            ),
            "conv",
        ),
    ],
)  # fmt: skip
def test_an_unsupported_operation(function: object, operation: str) -> None:
    pytest.importorskip("onnx")
    from digits_jax.apps.export.onnx_graph import to_onnx

    with pytest.raises(UserError, match=f"--to=onnx does not support the operation '{operation}"):
        to_onnx(function, (28, 28, 1))  # type: ignore[arg-type]


def test_a_module_that_needs_the_size_of_the_batch_is_refused_in_one_line(
    model: TrainedModel, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainedModel, "function", lambda *args, **options: lambda _, x: x.reshape(len(x), -1)[:, :10])
    with pytest.raises(UserError, match=r"^the model cannot be traced for --to=stablehlo .*x.shape\[0\] in it instead"):
        export_model(model, "stablehlo", tmp_path / "model", images)
    assert not list(tmp_path.iterdir())


def test_padding_strides_and_constants_of_a_graph(images: np.ndarray) -> None:
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    from digits_jax.apps.export.onnx_graph import to_onnx

    kernel = np.random.default_rng(0).standard_normal((3, 3, 1, 2)).astype(np.float32)

    def function(x: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32) / 255 - jnp.mean(kernel)
        x = jax.lax.conv_general_dilated(
            x, kernel, (2, 3), [(1, 0), (2, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
        )  # fmt: skip
        x = jax.lax.slice(x, (0, 1, 2, 0), (x.shape[0], 9, 9, 2), (1, 2, 1, 1))  # 4x7 of 14x10
        return jax.nn.relu(x.reshape(x.shape[0], -1) * 2) @ jnp.ones((4 * 7 * 2, 1)) * jnp.arange(3.0)[None]

    session = onnxruntime.InferenceSession(to_onnx(function, (28, 28, 1)))
    found = session.run(None, {"images": images})[0]
    np.testing.assert_allclose(found, jax.nn.softmax(function(jnp.asarray(images))), atol=1e-5)


def test_a_graph_is_as_a_framework_with_channels_first_writes_it(model: TrainedModel, images: np.ndarray) -> None:
    onnx = pytest.importorskip("onnx")
    for place in ("none", "before", "after"):
        config = model.config.to_dict()
        config["model"]["batch_norm"] = place
        variables = jax.tree.map(np.copy, model.variables)
        for i in (0, 1):  # of each, the layer before a max-pool: its scale's signs matter
            variables["params"][f"BatchNorm_{i}"]["scale"] = np.array([0.5, 1, 2, 3 if i else -1], np.float32)
        altered = TrainedModel({**model.run, "config": config}, variables, step=7, metrics=model.metrics)
        graph = onnx.load_from_string(FORMATS["onnx"].encode(altered)).graph
        signs = ["Mul"] if place == "after" else []
        assert [node.op_type for node in graph.node] == [
            "Reshape", "Cast", "Conv", "Relu", *signs, "MaxPool", "Conv", "Relu", "MaxPool",
            "Flatten", "Gemm", "Relu", "Gemm", "Softmax",
        ]  # fmt: skip
        assert [node.name for node in graph.node if node.op_type in ("Conv", "Gemm")] == [
            "Conv_0", "Conv_1", "Dense_0", "Dense_1",
        ]  # fmt: skip
        assert {"Conv_0.weight", "Conv_0.bias", "Dense_1.weight"} < {array.name for array in graph.initializer}


def test_an_onnx_file_says_what_its_model_card_says(model: TrainedModel, images: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    export_model(model, "onnx", tmp_path / "model.onnx", images)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    about = session.get_modelmeta()
    assert about.custom_metadata_map["labels"] == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert about.custom_metadata_map["training_run"] == f"{model.run['config_hash']}, seed 0, step {model.step}"
    assert f"\naccuracy: {model.metrics['test/accuracy']:.2%} (95% interval" in about.description
    assert "\nimages: uint8 [N, 28, 28, 1]: raw pixels as in optical_digits, not normalized" in about.description
    assert session.run(None, {"images": images[:0]})[0].shape == (0, 10)


def test_a_network_rebuilt_from_its_npz_file_alone(model: TrainedModel, images: np.ndarray, tmp_path: Path) -> None:
    """With what is said in `architecture`, in NumPy."""
    export_model(model, "npz", tmp_path / "model.npz", images)
    with np.load(tmp_path / "model.npz") as file:
        arrays = dict(file)
    architecture = str(arrays["architecture"])
    assert "| `Conv_0` | Conv | `[N, 28, 28, 1]` | `[N, 26, 26, 4]` | bias [4], kernel [3, 3, 1, 4] |" in architecture
    assert "| `Dense_0` | Dense | `[N, 100]` | `[N, 8]` |" in architecture
    layers = re.findall(r"^\| `(\w+)` \| (\w+) ", architecture, re.MULTILINE)
    assert "x = ops.max_pool_2x2(x)" in architecture
    config = json.loads(str(arrays["run"]))["config"]["model"]
    x = (images[:5].astype(np.float64) - config["mean"]) / config["std"]
    for i, (layer, kind) in enumerate(layers):
        array = {name.rpartition("/")[2]: value for name, value in arrays.items() if f"/{layer}/" in name}
        if kind == "Conv":
            windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
            x = np.einsum("nhwcij,ijco->nhwo", windows, array["kernel"]) + array["bias"]
        elif kind == "Dense":
            x = x.reshape(len(x), -1) @ array["kernel"] + array["bias"]
        else:
            x = (x - array["mean"]) / np.sqrt(array["var"] + config["bn_epsilon"]) * array["scale"] + array["bias"]
        if kind != "BatchNorm" and i < len(layers) - 1:
            x = np.maximum(x, 0)
        if kind == "BatchNorm" and x.ndim == 4:
            x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
            x = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).max((2, 4))
    np.testing.assert_allclose(jax.nn.softmax(x), model.predict(images[:5]), atol=1e-5)


def test_operations_of_other_models() -> None:
    """Each changes how pixels, channels or numbers are laid out, where the graph has other layouts than JAX."""
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    from digits_jax.apps.export.onnx_graph import to_onnx

    random = np.random.default_rng(0)
    images = random.integers(0, 256, (5, 6, 8, 3), np.uint8)
    kernel, dense, numbers = (
        random.standard_normal(shape).astype(np.float32) for shape in ((3, 3, 3, 3), (6 * 8 * 3, 4), (1, 6, 8, 3))
    )

    def convolve(x: jax.Array, padding: str) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def flat(x: jax.Array) -> jax.Array:
        return x.reshape(x.shape[0], -1)

    def cut(x: jax.Array, start: tuple[int, int], height: int, width: int) -> jax.Array:
        """Cuts pixels two apart."""
        return jax.lax.slice(x, (0, *start, 0), (x.shape[0], height, width, x.shape[3]), (1, 2, 2, 1))

    def corners_of(x: jax.Array, height: int, width: int) -> jax.Array:
        first, *others = [cut(x, (i, j), height, width) for i in (0, 1) for j in (0, 1)]
        return functools.reduce(jnp.maximum, others, first)

    functions: dict[str, Any] = {
        "a shift before a padded convolution": lambda x: flat(convolve(x - 0.5, "SAME")) @ dense,
        "a scale before a padded convolution": lambda x: flat(convolve(x * numbers[:, :1, :1], "SAME")) @ dense,
        "a constant minus": lambda x: 3 - flat(convolve(x, "SAME")),
        "a constant divided": lambda x: 2 / (1 + flat(x)),
        "a number per pixel": lambda x: flat(convolve(x, "SAME") * numbers + numbers) @ dense,
        "an activation of a matrix": lambda x: jax.nn.relu(flat(convolve(x, "SAME"))) @ dense,
        "a map of a matrix": lambda x: (flat(convolve(x, "SAME")) * dense[None, :, 0] + 1) @ dense,
        "a matrix": lambda x: flat(x),
        "images from a matrix": lambda x: flat(
            cut(flat(convolve(x, "SAME")).reshape(x.shape[0], 8, 6, 3), (1, 0), 8, 6)
        ),
        "a convolution with two uses": lambda x: flat(jax.nn.relu(convolve(x, "SAME") + 1) + convolve(x, "SAME") * 2),
        "the maximum of two corners": lambda x: flat(jnp.maximum(cut(x, (0, 0), 6, 8), cut(x, (1, 1), 6, 8))),
        "corners of a part": lambda x: flat(corners_of(x, 4, 8)),
        "a border": lambda x: flat(jnp.pad(x, ((0, 0), (1, 2), (0, 3), (0, 0)), constant_values=0.5)),
    }
    wanted = jax.jit(lambda x: {name: jax.nn.softmax(f(x)) for name, f in functions.items()})(images / np.float32(255))
    for name, function in functions.items():
        encoded = to_onnx(lambda x, f=function: f(x.astype(jnp.float32) / 255), images.shape[1:])
        found = onnxruntime.InferenceSession(encoded).run(None, {"images": images})[0]
        np.testing.assert_allclose(found, wanted[name], atol=1e-5, err_msg=name)


def test_a_model_card(trained: Path, model: TrainedModel) -> None:
    agreement = Agreement(360, 1e-7, 0)
    card = build_model_card(model, agreement, format_name="onnx", file_name="m.onnx", checked_on="test images")
    result = json.loads((trained / "result.json").read_text())
    assert f"\n{result['best']['test/accuracy']:.2%} (95% interval " in card
    assert " on the 360 test images of optical_digits, " in card
    assert "ranks its epochs by this accuracy, which is therefore optimistic" in card
    assert result["dataset"]["sha256"] in card
    assert json.loads(card.partition("```json")[2].partition("```")[0])["config"] == result["config"]
    unscored = TrainedModel(model.run, model.variables, step=3, metrics={})
    card = build_model_card(unscored, agreement, format_name="onnx", file_name="m.onnx", checked_on="test images")
    assert "did not evaluate this step on the test images" in card


@pytest.mark.slow
def test_the_command(trained: Path, data_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "digits_jax.apps.export", f"--workdir={trained}", f"--output={tmp_path}"]

    def run(*arguments: str, data: Path) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "TFDS_DATA_DIR": str(data)}
        return subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment, timeout=120)

    found = run("--to=npz", data=data_dir)
    assert found.returncode == 0, found.stderr
    assert "on 360 test images of optical_digits: same predicted classes, probabilities within 0.0e+00" in found.stdout
    assert {path.suffix for path in tmp_path.iterdir()} == {".npz", ".md"}
    assert "on 1,000 random images" in run("--to=npz", data=tmp_path / "nothing").stdout
    for arguments, message in (
        ((), "--to is missing; for example --to=onnx"),
        (("--to=pmml",), "flag --to=pmml: value should be one of <stablehlo|onnx|npz>"),
    ):
        found = run(*arguments, data=data_dir)
        assert found.returncode == 2
        assert message in found.stderr
