"""Conversion of a JAX function of images to an ONNX graph, in the form in which runtimes are fast.

Channels come first: only the images are reshaped. Convolutions and dense layers take the affine maps before and after
them into their weights: normalization of pixels, biases, batch normalization. Operations on parameters alone are folded
into constants. Operations that this project's models do not use are refused by name. Operators:
https://onnx.ai/onnx/operators.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from jax import export
from jax.extend.core import Jaxpr, Literal
from onnx import TensorProto, helper, numpy_helper

from digits_jax.errors import UserError

_OPSET, _IR_VERSION = 17, 8  # of 2022, so that any current runtime reads them

_BINARY = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max"}
_CHANNELS_LAST = {
    "dimension_numbers": jax.lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)),
    "lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "feature_group_count": 1, "batch_group_count": 1,
}  # fmt: skip
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "custom_jvp_call": "call_jaxpr"}
_ZERO, _ONE = np.float32(0), np.float32(1)
_WEIGHTED = ("Conv", "Gemm")
_TO_FIRST, _TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)  # permutations that move the channels


def to_onnx(
    logits: Callable,
    image_shape: tuple[int, ...],
    versions: Callable | None = None,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Converts to a serialized model that maps `images`, uint8 `[batch, H, W, C]`, to `probabilities`, the softmax.

    With `versions`, of `TEST_TIME_AUGMENTATIONS`, they are the mean over the versions of an image. The metadata become
    the file's `metadata_props` and, as text, its `doc_string`. Raises a UserError if a function contains an unsupported
    operation.
    """
    images = jax.ShapeDtypeStruct((*export.symbolic_shape("batch"), *image_shape), jnp.uint8)
    closed = jax.make_jaxpr(logits)(images)
    shape = ["batch", closed.out_avals[0].shape[-1]]
    graph = _Graph()
    batch, count = graph.channels_first(graph.images, image_shape), 1
    if versions:
        traced = jax.make_jaxpr(versions)(images)
        batches = graph.translate(traced.jaxpr, traced.consts, [batch])
        batch, count = graph.add("Concat", *batches, axis=0), len(batches)
    result = graph.add("Softmax", graph.translate(closed.jaxpr, closed.consts, [batch])[0], axis=-1)
    if versions:
        by_version = graph.add("Reshape", result, np.array([count, -1, shape[1]]))
        result = graph.add("ReduceMean", by_version, axes=[0], keepdims=0)
    nodes, constants = graph.encode(result, "probabilities")
    inputs = [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", *image_shape])]
    outputs = [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, shape)]
    onnx_graph = helper.make_graph(nodes, "digits_jax", inputs, outputs, constants)
    text = "\n".join(f"{name}: {value}" for name, value in (metadata or {}).items())
    options = {"producer_name": "digits_jax", "ir_version": _IR_VERSION, "doc_string": text}
    model = helper.make_model(onnx_graph, opset_imports=[helper.make_opsetid("", _OPSET)], **options)
    helper.set_model_props(model, dict(metadata or {}))
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


@dataclass(frozen=True, eq=False)
class _Node:
    """A value that depends on the images. One of four dimensions has its channels first."""

    operator: str
    inputs: tuple[Any, ...]  # nodes, and arrays that do not depend on the images
    attributes: dict[str, Any]
    layer: str  # Flax's name of the layer that it belongs to; "" outside of all


class _Graph:
    """The nodes so far, also those that a simpler one replaced: `encode` takes only what the result needs."""

    def __init__(self) -> None:
        self.images = _Node("images", (), {}, "")
        self._nodes: list[_Node] = []
        self._layer = ""  # of the operation that is being translated
        # How a node came about, for an operation that takes it:
        self._maps: dict[_Node, tuple[_Node, Any, Any]] = {}  # x, scale and shift of x * scale + shift
        self._corners: dict[_Node, set[tuple[_Node, int, int]]] = {}  # x, i and j of each x[:, i::2, j::2] in a maximum
        self._flat: dict[_Node, tuple[_Node, tuple[int, ...]]] = {}  # x and its (H, W, C) of a reshape to a matrix

    def add(self, operator: str, *inputs: Any, **attributes: Any) -> _Node:
        """Adds a node as it is."""
        self._nodes.append(_Node(operator, inputs, attributes, self._layer))
        return self._nodes[-1]

    def channels_first(self, images: _Node, image_shape: tuple[int, ...]) -> _Node:
        """Adds a node that moves the channels of images `[N, H, W, C]`."""
        if image_shape[2] == 1:  # the values stay where they are
            return self.add("Reshape", images, np.array([0, 1, *image_shape[:2]]))
        return self.add("Transpose", images, perm=_TO_FIRST)

    def encode(self, result: _Node, name: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        """Returns the nodes and constants that a result needs; its tensor is called `name`."""
        needed, pending = set[_Node](), [result]
        while pending:
            needed.add(node := pending.pop())
            pending += [x for x in node.inputs if isinstance(x, _Node) and x not in needed]
        nodes, constants, names, labels = [], [], {self.images: "images"}, Counter[str]()
        for node in (node for node in self._nodes if node in needed):
            weighted = node.operator in _WEIGHTED
            label = node.layer if weighted and node.layer else f"{node.layer}/{node.operator}".lstrip("/")
            labels[label] += 1
            label += f"_{labels[label] - 1}" if labels[label] > 1 else ""
            names[node], inputs = name if node is result else label, []
            for i, x in enumerate(node.inputs):
                if isinstance(x, _Node):
                    inputs.append(names[x])
                else:
                    inputs.append(f"{label}.{('', 'weight', 'bias')[i] if weighted else i}")
                    constants.append(numpy_helper.from_array(np.asarray(x), inputs[-1]))
            nodes.append(helper.make_node(node.operator, inputs, [names[node]], label, **node.attributes))
        return nodes, constants

    def translate(self, jaxpr: Jaxpr, consts: Any, arguments: list[Any]) -> list[Any]:
        """Adds the nodes of a function and returns the values of its results."""
        values: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))
        caller = self._layer

        def read(v: Any) -> Any:
            return np.asarray(v.val, v.aval.dtype) if isinstance(v, Literal) else values[v]  # type: ignore[attr-defined]

        for equation in jaxpr.eqns:
            inputs = [read(v) for v in equation.invars]
            name, parameters = equation.primitive.name, equation.params
            self._layer = caller or str(equation.source_info.name_stack).partition("/")[2]  # "Conv_0" of "VGG/Conv_0"
            if name in _CALLS:
                inner = parameters[_CALLS[name]]
                outputs = self.translate(inner.jaxpr, inner.consts, inputs)
            elif not any(isinstance(value, _Node) for value in inputs) and name != "dim_as_value":  # the batch size
                bound = equation.primitive.bind(*inputs, **parameters)
                outputs = bound if equation.primitive.multiple_results else [bound]
            else:
                outputs = [self._node_of(name, inputs, equation)]
            values.update(zip(equation.outvars, outputs, strict=True))
        self._layer = caller
        return [read(v) for v in jaxpr.outvars]

    def _node_of(self, name: str, inputs: list[Any], equation: Any) -> _Node:
        unsupported = f"--to=onnx does not support the operation {name!r} as this model uses it: try --to=stablehlo"
        if not inputs:  # the batch size as a number
            raise UserError(unsupported)
        parameters, shape = equation.params, equation.invars[0].aval.shape
        by_constant = isinstance(inputs[0], _Node) and not isinstance(inputs[-1], _Node)
        if name in _BINARY:
            return self._binary(name, inputs[0], inputs[1], equation)
        if name == "convert_element_type" and parameters["new_dtype"] == jnp.float32:
            return self.add("Cast", *inputs, to=TensorProto.FLOAT)
        if name == "reshape" and parameters["dimensions"] is None and _keeps_batch(equation):
            return self._reshape(inputs[0], shape[1:], parameters["new_sizes"][1:])
        if name == "slice" and _keeps_batch(equation):
            start, stop = parameters["start_indices"], parameters["limit_indices"]
            strides = parameters["strides"] or (1,) * len(shape)
            return self._slice(inputs[0], shape[1:], start[1:], stop[1:], strides[1:])
        if name == "pad" and _keeps_batch(equation) and not any(inner for *_, inner in parameters["padding_config"]):
            padding = np.array(parameters["padding_config"])[list(_dimensions(len(shape))), :2]
            return self.add("Pad", inputs[0], padding.T.reshape(-1), inputs[1])
        is_matrix = all(v.aval.ndim == 2 for v in equation.invars)
        if name == "dot_general" and is_matrix and parameters["dimension_numbers"] == (((1,), (0,)), ((), ())):
            return self._linear(inputs[0], np.transpose(inputs[1])) if by_constant else self.add("MatMul", *inputs)
        is_conv = name == "conv_general_dilated" and by_constant
        if is_conv and all(parameters[key] == value for key, value in _CHANNELS_LAST.items()):
            (top, bottom), (left, right) = parameters["padding"]
            kernel, pads = np.transpose(inputs[1], (3, 2, 0, 1)), (top, left, bottom, right)
            return self._linear(inputs[0], kernel, strides=parameters["window_strides"], pads=pads)
        raise UserError(unsupported)

    def _binary(self, name: str, a: Any, b: Any, equation: Any) -> _Node:
        """Adds a sum, difference, product, quotient or maximum."""
        if isinstance(a, _Node) and isinstance(b, _Node):
            return self._maximum(a, b) if name == "max" else self.add(_BINARY[name], a, b)
        swapped, out = isinstance(b, _Node), equation.outvars[0].aval
        x, c = (b, np.asarray(a)) if swapped else (a, np.asarray(b))
        keeps_shape = out.dtype == jnp.float32 and equation.invars[swapped].aval.shape == out.shape
        per_channel = keeps_shape and c.size in (1, *c.shape[-1:])
        c = c.transpose(_dimensions(c.ndim))
        if per_channel and (name == "add" or (name == "sub" and not swapped)):
            return self._map(x, _ONE, c if name == "add" else -c)
        if per_channel and (name == "mul" or (name == "div" and not swapped)):
            return self._map(x, c if name == "mul" else _ONE / c, _ZERO)
        if per_channel and name == "max" and not c.any():
            return self.add("Relu", x)
        return self.add(_BINARY[name], *((c, x) if swapped else (x, c)))

    def _map(self, x: _Node, scale: Any, shift: Any) -> _Node:
        """Adds `x * scale + shift`, in the weights if x is that of a convolution or dense layer."""
        x, scale_before, shift_before = self._maps.get(x, (x, _ONE, _ZERO))
        scale, shift = scale_before * scale, shift_before * scale + shift
        if x.operator in _WEIGHTED:
            source, kernel, bias = x.inputs
            kernel = kernel * scale.reshape(-1, *[1] * (kernel.ndim - 1))
            self._nodes.append(replace(x, inputs=(source, kernel, bias * scale.ravel() + shift.ravel())))
            return self._nodes[-1]
        result = self.add("Mul", x, scale) if np.any(scale != 1) else x
        result = self.add("Add", result, shift) if np.any(shift) else result
        if result is not x:
            self._maps[result] = x, scale, shift
        return result

    def _linear(self, x: _Node, kernel: np.ndarray, **attributes: Any) -> _Node:
        """Adds a convolution with a kernel `[O, C, H, W]`, or a dense layer with one `[O, C]`."""
        kernel = np.asarray(kernel)
        if x in self._flat:  # a dense layer takes pixels in any order
            x, image_shape = self._flat[x]
            kernel = kernel.reshape(-1, *image_shape).transpose(_TO_FIRST)
        source, scale, shift = self._maps.get(x, (x, _ONE, _ZERO))
        bias, row = np.zeros(len(kernel), np.float32), (1, -1, *[1] * (kernel.ndim - 2))
        if not (np.any(shift) and any(attributes.get("pads", ()))):  # padding is 0 after the map, not before
            bias = (kernel * shift.reshape(row)).reshape(len(kernel), -1).sum(1)
            x, kernel = source, kernel * scale.reshape(row)
        if attributes:
            return self.add("Conv", x, kernel, bias, **attributes)
        x = self.add("Flatten", x) if kernel.ndim == 4 else x
        return self.add("Gemm", x, kernel.reshape(len(kernel), -1), bias, transB=1)

    def _reshape(self, x: _Node, shape: tuple[int, ...], new_shape: tuple[int, ...]) -> _Node:
        last = self.add("Transpose", x, perm=_TO_LAST) if len(shape) == 3 else x
        result = self.add("Reshape", last, np.array([0, *new_shape]))
        if len(shape) == 3 and len(new_shape) == 1:
            self._flat[result] = x, shape
        return self.channels_first(result, new_shape) if len(new_shape) == 3 else result

    def _slice(self, x: _Node, shape: tuple, start: tuple, stop: tuple, strides: tuple) -> _Node:
        order = [dimension - 1 for dimension in _dimensions(1 + len(shape))[1:]]
        starts, stops, steps = (np.array(bound)[order] for bound in (start, stop, strides))
        result = self.add("Slice", x, starts, stops, np.arange(1, 1 + len(shape)), steps)
        whole = (*(2 * (size // 2) for size in shape[:2]), *shape[2:])
        if (stop, strides) == (whole, (2, 2, 1)) and max(start) < 2 and start[2] == 0:
            self._corners[result] = {(x, *start[:2])}
        return result

    def _maximum(self, a: _Node, b: _Node) -> _Node:
        """Adds a maximum, or the max-pool that it completes, see `ops.max_pool_2x2`."""
        result = self.add("Max", a, b)
        if a in self._corners and b in self._corners:
            corners = self._corners[result] = self._corners[a] | self._corners[b]
            x, *_ = next(iter(corners))
            if corners == {(x, i, j) for i in (0, 1) for j in (0, 1)}:
                return self.add("MaxPool", x, kernel_shape=(2, 2), strides=(2, 2))
        return result


def _dimensions(ndim: int) -> tuple[int, ...]:
    """Returns the dimensions of an array in the order of ONNX: of four, the channels are first."""
    return _TO_FIRST if ndim == 4 else tuple(range(ndim))


def _keeps_batch(equation: Any) -> bool:
    """Returns whether the first dimension is the batch before and after."""
    before, after = (v.aval.shape[0] for v in (equation.invars[0], equation.outvars[0]))
    return export.is_symbolic_dim(before) and before == after
