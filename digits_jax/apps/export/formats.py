"""Export of a trained model to one file that does not need this project: StableHLO, ONNX, or NumPy arrays.

StableHLO and ONNX map raw uint8 pixels, in batches of any size, to probabilities, normalization included. Both compute
in float32, also where the model or JAX's default precision is lower, with XLA's own convolution or their runtime's.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jax import export

from digits_jax import ops
from digits_jax.apps import require_extra
from digits_jax.apps.export import description
from digits_jax.errors import UserError
from digits_jax.runs.trained_model import TrainedModel
from digits_jax.test_time import TEST_TIME_AUGMENTATIONS

Predict = Callable[[np.ndarray], np.ndarray]  # uint8 [N, H, W, C] to probabilities [N, num_classes]

TOLERANCE = 1e-5  # largest difference of a probability between an exported file and the model
_BATCH_SIZE = 32  # larger batches are slower on a CPU, which then spends its time on page faults


class Format(NamedTuple):
    packages: tuple[str, ...]  # of the extra `export`
    encode: Callable[[TrainedModel], bytes]
    load: Callable[[Path], Predict]
    usage: str  # three lines of Python, with the file's name as {file}
    interface: str  # in words, with {shape} and {num_classes}


_INTERFACE = (
    "`images` are uint8 {shape}, raw pixels as in the data set, for any N. `probabilities` are float32 "
    "`[N, {num_classes}]`; a row sums to 1."
)


def _in_float32(model: TrainedModel) -> TrainedModel:
    """Returns the model with float32 activations; parameters are float32 in any case."""
    config = model.config.to_dict()
    config["model"]["dtype"] = "float32"
    return TrainedModel({**model.run, "config": config}, model.variables, step=model.step, metrics=model.metrics)


def _probabilities(model: TrainedModel) -> jax.stages.Wrapped:
    logits = _in_float32(model).function()

    @jax.jit
    def probabilities(images: jax.Array) -> jax.Array:
        with ops.using("lax"), jax.default_matmul_precision("float32"):
            return nn.softmax(logits(model.variables, images))

    return probabilities


def reference(model: TrainedModel) -> Predict:
    """Returns the model's `predict` in float32 with XLA's own convolution, against which an export is checked."""
    probabilities = _probabilities(model)
    return lambda images: np.asarray(probabilities(images))


def _to_stablehlo(model: TrainedModel) -> bytes:
    images = jax.ShapeDtypeStruct((*export.symbolic_shape("batch"), *model.image_shape), np.uint8)
    return bytes(export.export(_probabilities(model), platforms=("cpu", "cuda", "tpu"))(images).serialize())


def _load_stablehlo(path: Path) -> Predict:
    call = jax.jit(export.deserialize(bytearray(path.read_bytes())).call)
    return lambda images: np.asarray(call(images))


def _to_onnx(model: TrainedModel) -> bytes:
    from digits_jax.apps.export.onnx_graph import to_onnx

    logits = _in_float32(model).function(test_time_augmentation="none")
    versions = TEST_TIME_AUGMENTATIONS[model.config.test_time_augmentation]
    function = ops.using("lax")(lambda images: logits(model.variables, images))
    return to_onnx(function, model.image_shape, versions, metadata=description.metadata(model))


def _load_onnx(path: Path) -> Predict:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["probabilities"], {"images": images})[0]


def _to_npz(model: TrainedModel) -> bytes:
    run = {"config": model.run["config"], "image_shape": model.image_shape, "num_classes": model.num_classes}
    file = io.BytesIO()
    text = {"run": np.array(json.dumps(run)), "architecture": np.array(description.architecture(model))}
    np.savez(file, **(text | traverse_util.flatten_dict(model.variables, sep="/")))
    return file.getvalue()


def _load_npz(path: Path) -> Predict:
    with np.load(path) as file:
        run = json.loads(str(file["run"]))
        variables = traverse_util.unflatten_dict({name: file[name] for name in file.files if "/" in name}, sep="/")
    return reference(TrainedModel(run, {"batch_stats": {}, **variables}, step=0, metrics={}))


FORMATS = {
    "stablehlo": Format(
        ("flatbuffers",),
        _to_stablehlo,
        _load_stablehlo,
        "import pathlib, jax.export  # also needs flatbuffers\n"
        'exported = jax.export.deserialize(bytearray(pathlib.Path("{file}").read_bytes()))\n'
        "probabilities = exported.call(images)",
        f"{_INTERFACE} The program runs on CPUs, NVIDIA GPUs and TPUs. Load it with JAX {jax.__version__}, which "
        "exported it, or newer: [guaranteed](https://docs.jax.dev/en/latest/export/export.html#compatibility-"
        "guarantees) are releases up to six months newer and three weeks older.",
    ),
    "onnx": Format(
        ("onnx", "onnxruntime"),
        _to_onnx,
        _load_onnx,
        "import onnxruntime\n"
        'session = onnxruntime.InferenceSession("{file}")\n'
        'probabilities = session.run(["probabilities"], {{"images": images}})[0]',
        _INTERFACE,
    ),
    "npz": Format(
        (),
        _to_npz,
        _load_npz,
        "import json, numpy\n"
        'arrays = numpy.load("{file}")  # named by their paths in the Flax model: "params/...", "batch_stats/..."\n'
        'config = json.loads(str(arrays["run"]))["config"]',
        'The arrays are the parameters and batch statistics of the layers below; `str(arrays["architecture"])` is the '
        "same description. The network takes uint8 {shape}, raw pixels as in the data set.",
    ),
}


class Agreement(NamedTuple):
    """The differences between an exported file and the model."""

    num_images: int
    difference: float  # largest difference of a probability
    changed: int  # number of images with another predicted class


def export_model(model: TrainedModel, format_name: str, path: Path, images: np.ndarray) -> Agreement:
    """Exports a model, reloads the file, and moves it into place if its predictions agree with the model's.

    They are compared on uint8 images `[N, H, W, C]`, in batches of one image and of several.

    Raises a UserError if a package is missing, the format cannot express the model, or the predictions do not agree,
    and an OSError if the file cannot be written.
    """
    chosen = FORMATS[format_name]
    require_extra("export", chosen.packages, needed_by=f"--to={format_name}")
    temporary = path.with_name(path.name + ".tmp")
    try:
        try:
            encoded = chosen.encode(model)
        except (TypeError, ValueError, NotImplementedError) as error:  # JAX's, of a user's module
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
            raise UserError(
                f"the model cannot be traced for --to={format_name} with a batch of any size ({reason}): expected, for "
                "example, x.shape[0] in it instead of len(x)"
            ) from None
        temporary.write_bytes(encoded)
        batches = [images[:1], *(images[i : i + _BATCH_SIZE] for i in range(1, len(images), _BATCH_SIZE))]
        a, b = (np.concatenate([*map(predict, batches)]) for predict in (reference(model), chosen.load(temporary)))
        agreement = Agreement(len(images), float(np.abs(a - b).max()), int((a.argmax(-1) != b.argmax(-1)).sum()))
        if agreement.changed or not agreement.difference <= TOLERANCE:  # "not": the difference may be nan
            raise UserError(
                f"the reloaded {format_name} file disagrees with the model: probabilities differ by up to "
                f"{agreement.difference:.1e} (expected {TOLERANCE:.0e}), the predicted class of {agreement.changed} of "
                f"{agreement.num_images:,} images differs; nothing was exported"
            )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return agreement
