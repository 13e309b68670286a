"""The codec of sparse storage: one tensor in, its non-zero values and a record of where they belong out, and back.

A value is zero when all of its bits are: `-0.0`, NaN and the infinities are values like any other, so every tensor
comes back exact to the bit. The record is a byte tensor (little-endian):

    bytes 0-3   CRC-32 of the dtype's name, the rest of the record, and the values
    byte  4     encoding: 0 dense, 1 bitmask, 2 gaps
    byte  5     number of dimensions
    then        the shape, 8 bytes a dimension
    then        bitmask: one bit an element in row-major order, lowest bit first, padded with zeros;
                gaps: the index of each value as its distance from the one before, one byte a value (the first
                counts from -1); a byte 0 goes 255 elements further without a value

Everything is checked against the bytes that are really there before memory for the dense tensor is taken.
"""

import math
import struct
import zlib
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hf_compress.ground.errors import RunError

HEADER = struct.Struct("<IBB")
CRC_BYTES = 4
SKIP = 255
SIZE_LIMIT = 2**63
DIMENSION_LIMIT = 64
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Encoding(IntEnum):
    """How a tensor is stored; the smallest is taken, the first of equals."""

    DENSE = 0
    BITMASK = 1
    GAPS = 2


class Record(NamedTuple):
    """What the record of a tensor says; `positions` are the bitmask or the gaps."""

    encoding: Encoding
    shape: tuple[int, ...]
    positions: bytes

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def pack(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Encode a tensor of any shape and dtype in whichever way is smallest.

    Returns:
        The values (shape (non-zeros,); the tensor itself where dense storage is smallest), and the record (bytes).
    """
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    values, encoding, positions = tensor.detach(), Encoding.DENSE, b""
    if flat.element_size() in BITS:
        occupied = flat.view(BITS[flat.element_size()]) != 0
        encoding, positions = _smallest(occupied.numpy(), flat.element_size())
        if encoding != Encoding.DENSE:
            values = flat[occupied]
    shape = tuple(tensor.shape)
    body = bytes((encoding, len(shape))) + struct.pack(f"<{len(shape)}Q", *shape) + positions
    record = struct.pack("<I", _checksum(values, body)) + body
    return values, torch.frombuffer(bytearray(record), dtype=torch.uint8)


def unpack(values: Tensor, record: Tensor, expected_shape: tuple[int, ...]) -> Tensor:
    """Return the tensor that `pack` was given; all tensors on the CPU.

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
    bits = values.view(BITS[values.element_size()])
    dense = torch.zeros(parsed.size, dtype=bits.dtype)
    dense.scatter_(0, _indices(parsed), bits)
    return dense.view(values.dtype).reshape(parsed.shape)


def _smallest(occupied: np.ndarray, width: int) -> tuple[Encoding, bytes]:
    """Return the encoding, and the positions in it, of a tensor with values of `width` bytes where `occupied`."""
    size, count = occupied.size, int(np.count_nonzero(occupied))
    mask_bytes = math.ceil(size / 8)
    if count < mask_bytes:
        gaps = _gaps(occupied)
        if gaps.size < min(mask_bytes, (size - count) * width):
            return Encoding.GAPS, gaps.tobytes()
    if mask_bytes < (size - count) * width:
        return Encoding.BITMASK, np.packbits(occupied, bitorder="little").tobytes()
    return Encoding.DENSE, b""


def _gaps(occupied: np.ndarray) -> np.ndarray:
    distances = np.diff(np.flatnonzero(occupied), prepend=-1)
    skips = (distances - 1) // SKIP
    gaps = np.zeros(distances.size + int(skips.sum()), np.uint8)
    gaps[np.arange(distances.size) + np.cumsum(skips)] = distances - SKIP * skips
    return gaps


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
    packed = np.frombuffer(positions, np.uint8)
    if record.encoding == Encoding.BITMASK:
        if packed.size != math.ceil(record.size / 8):
            raise RunError(f"its bitmask has {packed.size} bytes for {record.size} elements")
        marked = int(np.bitwise_count(packed).sum(dtype=np.int64))
        beyond = record.size % 8 and packed[-1] >> (record.size % 8)
    else:
        marked = int(np.count_nonzero(packed))
        beyond = int(packed.sum(dtype=np.int64)) + SKIP * (packed.size - marked) > record.size
    if marked != count:
        raise RunError(f"it marks the positions of {marked} values but {count} are there")
    if beyond:
        raise RunError(f"it marks positions beyond its {record.size} elements")


def _indices(record: Record) -> Tensor:
    """Return the flat positions of the values, shape (values,)."""
    packed = np.frombuffer(record.positions, np.uint8)
    if record.encoding == Encoding.BITMASK:
        return torch.from_numpy(np.flatnonzero(np.unpackbits(packed, count=record.size, bitorder="little").view(bool)))
    skips = packed == 0
    if not skips.any():
        return torch.from_numpy(np.cumsum(packed, dtype=np.int64) - 1)
    steps = np.where(skips, SKIP, packed)
    return torch.from_numpy((np.cumsum(steps, dtype=np.int64) - 1)[~skips])
