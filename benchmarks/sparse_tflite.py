"""Rewrites a LiteRT file into what the XNNPACK delegate documents as the condition of its sparse kernels.

The weights of 1x1 convolutions become sparse tensors in the format's own compressed form, each unpacked by a DENSIFY
operation, and the pooling at the end, which the converter writes as a sum, becomes a mean.
"""

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

WORTH_IT = 2 / 3


def without_zeros(content: bytes) -> bytes:
    """Return the file with every float32 weight of a 1x1 convolution stored sparsely, if two thirds are zero."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    densify = _add_operator(model, schema.BuiltinOperator.DENSIFY)
    unpacking = []
    for operator in _operators(model, schema.BuiltinOperator.CONV_2D):
        tensor = graph.tensors[operator.inputs[1]]
        if tensor.type != schema.TensorType.FLOAT32 or list(tensor.shape[1:3]) != [1, 1]:
            continue
        buffer = model.buffers[tensor.buffer]
        weight = np.frombuffer(buffer.data.tobytes(), np.float32).reshape(tensor.shape[0], tensor.shape[3])
        if np.mean(weight == 0) < WORTH_IT:
            continue
        graph.tensors.append(_compressed(model, tensor, weight))
        unpacking.append(_densify(densify, len(graph.tensors) - 1, operator.inputs[1]))
        buffer.data, tensor.buffer = None, 0
    _sums_to_means(model)
    graph.operators = unpacking + graph.operators
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _operators(model, builtin: int) -> list:
    codes = [code.builtinCode for code in model.operatorCodes]
    return [operator for operator in model.subgraphs[0].operators if codes[operator.opcodeIndex] == builtin]


def _add_operator(model, builtin: int) -> int:
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = builtin
    code.version = 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _sums_to_means(model) -> None:
    """Make the sum before the classifier a mean; the classifier's weights take the number of summed values."""
    tensors = model.subgraphs[0].tensors
    mean = _add_operator(model, schema.BuiltinOperator.MEAN)
    for operator in _operators(model, schema.BuiltinOperator.SUM):
        (reader,) = [
            other
            for other in _operators(model, schema.BuiltinOperator.FULLY_CONNECTED)
            if other.inputs[0] == operator.outputs[0]
        ]
        summed = np.prod(tensors[operator.inputs[0]].shape) / np.prod(tensors[operator.outputs[0]].shape)
        buffer = model.buffers[tensors[reader.inputs[1]].buffer]
        weight = np.frombuffer(buffer.data.tobytes(), np.float32) * np.float32(summed)
        buffer.data = np.frombuffer(weight.tobytes(), np.uint8)
        operator.opcodeIndex = mean


def _compressed(model, tensor, weight: np.ndarray):
    """Return a tensor with the non-zero values of `weight`, shape (outputs, inputs), by rows."""
    rows, columns = np.nonzero(weight)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(weight[rows, columns].tobytes(), np.uint8)
    model.buffers.append(buffer)
    segments = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(weight)))])
    sparsity = schema.SparsityParametersT()
    sparsity.traversalOrder = np.arange(4, dtype=np.int32)
    sparsity.dimMetadata = [_dense(size) for size in tensor.shape[:3]] + [_sparse(segments, columns)]
    sparse = schema.TensorT()
    sparse.shape, sparse.type, sparse.hasRank = tensor.shape, tensor.type, True
    sparse.name = tensor.name + b"/nonzero"
    sparse.buffer = len(model.buffers) - 1
    sparse.sparsity = sparsity
    return sparse


def _dense(size: int):
    dimension = schema.DimensionMetadataT()
    dimension.format, dimension.denseSize = schema.DimensionType.DENSE, int(size)
    return dimension


def _sparse(segments: np.ndarray, indices: np.ndarray):
    dimension = schema.DimensionMetadataT()
    dimension.format = schema.DimensionType.SPARSE_CSR
    dimension.arraySegmentsType = dimension.arrayIndicesType = schema.SparseIndexVector.Int32Vector
    dimension.arraySegments, dimension.arrayIndices = schema.Int32VectorT(), schema.Int32VectorT()
    dimension.arraySegments.values = segments.astype(np.int32)
    dimension.arrayIndices.values = indices.astype(np.int32)
    return dimension


def _densify(code: int, source: int, target: int):
    operator = schema.OperatorT()
    operator.opcodeIndex = code
    operator.inputs, operator.outputs = np.array([source], np.int32), np.array([target], np.int32)
    operator.builtinOptionsType = schema.BuiltinOptions.DensifyOptions
    operator.builtinOptions = schema.DensifyOptionsT()
    return operator
