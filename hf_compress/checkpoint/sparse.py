"""The codec of sparse storage: one tensor in, its non-zero values and a record of where they belong out, and back.

A value is zero when all of its bits are: `-0.0`, NaN and the infinities are values like any other, so every tensor
comes back exact to the bit. The record is a byte tensor (little-endian):

    bytes 0-3   CRC-32 of the dtype's name, the rest of the record, and the values
    byte  4     encoding: 0 dense, 1 bitmask, 2 indices
    byte  5     number of dimensions
    then        the shape, 8 bytes a dimension
    then        bitmask: one bit an element in row-major order, lowest bit first, padded with zeros;
                indices: flat positions in ascending order, 4 bytes each

Everything is checked against the bytes that are really there before memory for the dense tensor is taken.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from hf_compress.errors import RunError

HEADER = struct.Struct("<IBB")
CRC_BYTES = 4
INDEX = np.dtype("<i4")
INDEX_LIMIT = 2**31
SIZE_LIMIT = 2**63
DIMENSION_LIMIT = 64
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Encoding(IntEnum):
    """How a tensor is stored; the smallest is taken, the first of equals."""

    DENSE = 0
    BITMASK = 1
    INDICES = 2


@dataclass(frozen=True)
class Record:
    """What the record of a tensor says.

    Attributes:
        shape: of the dense tensor.
        positions: bitmask or indices, as bytes.
    """

    encoding: Encoding
    shape: tuple[int, ...]
    positions: bytes

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def encode(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Encode a tensor in whichever way is smallest.

    Args:
        tensor: any shape, any dtype.

    Returns:
        The values (shape (non-zeros,); the tensor itself where dense storage is smallest), and the record (bytes).
    """
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    values, encoding, positions = tensor.detach(), Encoding.DENSE, b""
    if flat.element_size() in BITS:
        occupied = flat.view(BITS[flat.element_size()]) != 0
        encoding = _smallest(flat, int(occupied.sum()))
        if encoding != Encoding.DENSE:
            values = flat[occupied]
            positions = _positions(occupied.numpy(), encoding)
    shape = tuple(tensor.shape)
    body = bytes((encoding, len(shape))) + struct.pack(f"<{len(shape)}Q", *shape) + positions
    record = struct.pack("<I", _checksum(values, body)) + body
    return values, torch.frombuffer(bytearray(record), dtype=torch.uint8)


def decode(values: Tensor, record: Tensor, expected_shape: tuple[int, ...]) -> Tensor:
    """Return the tensor that `encode` was given.

    Args:
        values: on the CPU.
        record: on the CPU.
        expected_shape: of the tensor that is to be filled.

    Returns:
        A tensor of the recorded shape. Where that is not the expected one, its elements share one uninitialised
        memory cell: the caller must refuse it.

    Raises:
        RunError: values and record do not belong together, or were changed.
    """
    raw = bytes(record.numpy()) if record.dtype == torch.uint8 and record.dim() == 1 else b""
    parsed = _parse(raw)
    _check_counts(parsed, values)
    if _checksum(values, raw[CRC_BYTES:]) != struct.unpack_from("<I", raw)[0]:
        raise RunError("its checksum is wrong")
    if parsed.shape != tuple(expected_shape):
        return torch.empty((), dtype=values.dtype).expand(parsed.shape)
    if parsed.encoding == Encoding.DENSE:
        return values
    dense = torch.zeros(parsed.size, dtype=values.dtype)
    bits = BITS[values.element_size()]
    dense.view(bits).numpy()[_indices(parsed)] = values.view(bits).numpy()
    return dense.reshape(parsed.shape)


def _smallest(flat: Tensor, nonzeros: int) -> Encoding:
    size, width = flat.numel(), flat.element_size()
    sizes = {Encoding.DENSE: size * width, Encoding.BITMASK: math.ceil(size / 8) + nonzeros * width}
    if size < INDEX_LIMIT:
        sizes[Encoding.INDICES] = nonzeros * (INDEX.itemsize + width)
    return min(sizes, key=lambda encoding: sizes[encoding])


def _positions(occupied: np.ndarray, encoding: Encoding) -> bytes:
    if encoding == Encoding.BITMASK:
        return np.packbits(occupied, bitorder="little").tobytes()
    return np.flatnonzero(occupied).astype(INDEX).tobytes()


def _checksum(values: Tensor, body: bytes) -> int:
    crc = zlib.crc32(body, zlib.crc32(str(values.dtype).encode()))
    return zlib.crc32(values.cpu().contiguous().reshape(-1).view(torch.uint8).numpy(), crc)


def _parse(raw: bytes) -> Record:
    if len(raw) < HEADER.size:
        raise RunError("its record is cut short")
    _, code, dimensions = HEADER.unpack_from(raw)
    if code not in list(Encoding):
        raise RunError(f"its encoding {code} is unknown")
    if dimensions > DIMENSION_LIMIT:
        raise RunError(f"it claims {dimensions} dimensions")
    start = HEADER.size + 8 * dimensions
    if len(raw) < start:
        raise RunError("its record is cut short")
    record = Record(Encoding(code), struct.unpack_from(f"<{dimensions}Q", raw, HEADER.size), raw[start:])
    if record.size >= SIZE_LIMIT or any(length >= SIZE_LIMIT for length in record.shape):
        raise RunError("its recorded shape is impossible")
    return record


def _check_counts(record: Record, values: Tensor) -> None:
    """Compare what is recorded with what is there."""
    positions, count = record.positions, values.numel()
    if record.encoding == Encoding.DENSE:
        if positions or tuple(values.shape) != record.shape:
            raise RunError(f"it holds shape {tuple(values.shape)} where {record.shape} is recorded")
        return
    if values.dim() != 1 or values.element_size() not in BITS:
        raise RunError("its values are not a list of numbers")
    if record.encoding == Encoding.BITMASK:
        if len(positions) != math.ceil(record.size / 8):
            raise RunError(f"its bitmask has {len(positions)} bytes for {record.size} elements")
        packed = np.frombuffer(positions, np.uint8)
        marked = int(np.bitwise_count(packed).sum(dtype=np.int64))
        if marked != count:
            raise RunError(f"its bitmask marks {marked} elements but {count} values are there")
        if record.size % 8 and packed[-1] >> (record.size % 8):
            raise RunError("its bitmask marks elements behind the last")
        return
    if len(positions) != INDEX.itemsize * count:
        raise RunError(f"{len(positions) // INDEX.itemsize} indices are there for {count} values")
    indices = np.frombuffer(positions, INDEX)
    if count and (indices[0] < 0 or indices[-1] >= record.size or (indices[1:] <= indices[:-1]).any()):
        raise RunError(f"its indices are not ascending numbers under {record.size}")


def _indices(record: Record) -> np.ndarray:
    if record.encoding == Encoding.INDICES:
        return np.frombuffer(record.positions, INDEX)
    packed = np.frombuffer(record.positions, np.uint8)
    return np.flatnonzero(np.unpackbits(packed, count=record.size, bitorder="little").view(bool))
