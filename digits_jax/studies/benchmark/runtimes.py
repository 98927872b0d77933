"""Inference runtimes on this project's own ONNX export; they need the extra `benchmark`."""

from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from digits_jax import ops
from digits_jax.apps.speed import build_experiment
from digits_jax.data import Dataset
from digits_jax.storage import num_cores

PredictAll = Callable[[], np.ndarray]  # returns the probabilities of all test images


def onnxruntime_pass(config: ConfigDict, dataset: Dataset) -> PredictAll:
    """Returns a function that runs ONNX Runtime on batches of `eval_batch_size`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_cores()
    session = onnxruntime.InferenceSession(_export(config, dataset), options, providers=["CPUExecutionProvider"])
    batches = _batches(config, dataset)
    return lambda: np.concatenate([session.run(None, {"images": images})[0] for images in batches])


def openvino_pass(config: ConfigDict, dataset: Dataset, *, hint: str) -> PredictAll:
    """Returns a function that runs OpenVINO on batches of `eval_batch_size`, several at once with "throughput"."""
    import openvino

    core, onnx, batches = openvino.Core(), _export(config, dataset), _batches(config, dataset)
    options = {
        "INFERENCE_NUM_THREADS": num_cores(),
        "INFERENCE_PRECISION_HINT": "f32",  # its default is bfloat16 on some CPUs
        "PERFORMANCE_HINT": hint.upper(),
    }
    results: list[Any] = [None] * len(batches)

    def keep(request: Any, number: int) -> None:
        results[number] = request.get_output_tensor().data.copy()

    def create_queue(size: int) -> Any:
        model = core.read_model(onnx)
        model.reshape([size, *dataset.image_shape])  # faster than a batch of any size
        queue = openvino.AsyncInferQueue(core.compile_model(model, "CPU", options))
        queue.set_callback(keep)
        return queue

    queues = {size: create_queue(size) for size in {len(images) for images in batches}}

    def predict_all() -> np.ndarray:
        for number, images in enumerate(batches):
            queues[len(images)].start_async({"images": images}, number)
        for queue in queues.values():
            queue.wait_all()
        return np.concatenate(results)

    return predict_all


def _batches(config: ConfigDict, dataset: Dataset) -> list[np.ndarray]:
    images = dataset.split("test")[0]
    return [images[i : i + config.eval_batch_size] for i in range(0, len(images), config.eval_batch_size)]


def _export(config: ConfigDict, dataset: Dataset) -> bytes:
    """Returns the network with its initial weights as an ONNX file."""
    from digits_jax.apps.export.onnx_graph import to_onnx

    experiment = build_experiment(config, dataset)
    state = experiment.create_state(np.uint32(0))
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits = ops.using("lax")(lambda images: experiment.model.apply(variables, images, train=False))
    return to_onnx(logits, dataset.image_shape)
