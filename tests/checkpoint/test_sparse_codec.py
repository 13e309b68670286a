"""The codec of sparse storage: whatever goes in comes out, to the bit, and damage is noticed."""

import struct
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_compress.checkpoint.sparse import Encoding, pack, unpack
from hf_compress.ground.errors import RunError

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8]
SPECIAL = [-0.0, float("nan"), float("inf"), float("-inf")]


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def encoding(record):
    return Encoding(int(record[4]))


def sparse_tensor(shape, dtype, density, seed, special=False):
    generator = torch.Generator().manual_seed(seed)
    tensor = (torch.randn(shape, generator=generator) * 50).to(dtype)
    if special and dtype.is_floating_point:
        picks = torch.randint(len(SPECIAL) + 1, shape, generator=generator)
        for index, value in enumerate(SPECIAL):
            tensor = torch.where(picks == index, torch.tensor(value, dtype=dtype), tensor)
    return tensor.masked_fill(torch.rand(shape, generator=generator) >= density, 0)


def reseal(record):
    """Recompute the checksum of a record whose values are `values`, as somebody who tampers would."""
    return lambda values: torch.frombuffer(
        bytearray(
            struct.pack(
                "<I",
                zlib.crc32(
                    values.contiguous().reshape(-1).view(torch.uint8).numpy(),
                    zlib.crc32(record[4:], zlib.crc32(str(values.dtype).encode())),
                ),
            )
            + record[4:]
        ),
        dtype=torch.uint8,
    )


@settings(deadline=None, max_examples=150)
@given(
    shape=st.lists(st.integers(0, 12), max_size=4).map(tuple),
    dtype=st.sampled_from(DTYPES),
    density=st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.01, 1.0])),
    seed=st.integers(0, 2**31),
)
def test_every_tensor_comes_back_exact_to_the_bit(shape, dtype, density, seed):
    tensor = sparse_tensor(shape, dtype, density, seed, special=True)
    values, record = pack(tensor)
    again = unpack(values, record, shape)
    assert again.dtype == dtype and again.shape == shape
    assert torch.equal(bits(again), bits(tensor))
    assert values.nbytes + record.nbytes <= tensor.nbytes + 6 + 8 * len(shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_special_numbers_and_their_payloads_are_values(dtype):
    tensor = torch.zeros(1000, dtype=dtype)
    tensor[[0, 3, 500, 998, 999]] = torch.tensor([*SPECIAL, 1.0], dtype=dtype)
    values, record = pack(tensor)
    assert len(values) == 5
    assert torch.equal(bits(unpack(values, record, (1000,))), bits(tensor))


@pytest.mark.parametrize(
    ("density", "expected"), [(1.0, Encoding.DENSE), (0.5, Encoding.BITMASK), (0.05, Encoding.GAPS)]
)
def test_the_smallest_encoding_is_taken(density, expected):
    tensor = sparse_tensor((64, 1000), torch.float32, density, seed=1)
    values, record = pack(tensor)
    assert encoding(record) == expected
    nonzeros = int((tensor != 0).sum())
    positions = {Encoding.DENSE: 0, Encoding.BITMASK: 8000, Encoding.GAPS: nonzeros}[expected]
    assert values.numel() == nonzeros
    assert record.numel() == 6 + 16 + positions


def test_a_hand_computed_bitmask():
    tensor = torch.tensor([[0.0, 2.0, 0.0], [3.0, 4.0, 0.0], [5.0, 0.0, 0.0]])
    values, record = pack(tensor)
    assert values.tolist() == [2.0, 3.0, 4.0, 5.0]
    assert record[4:].tolist() == [1, 2, *struct.pack("<QQ", 3, 3), 0b01011010, 0]


def test_hand_computed_gaps_step_over_long_runs_of_zeros():
    tensor = torch.zeros(2000)
    tensor[[2, 257, 258, 1278]] = 7.0
    values, record = pack(tensor)
    assert record[4:].tolist() == [2, 1, *struct.pack("<Q", 2000), 3, 255, 1, 0, 0, 0, 255]
    assert torch.equal(unpack(values, record, (2000,)), tensor)


def test_memory_layout_and_strides_do_not_matter():
    tensor = sparse_tensor((4, 8, 3, 3), torch.float32, 0.2, seed=0)
    for view in (tensor.to(memory_format=torch.channels_last), tensor.transpose(0, 1), tensor[::2]):
        values, record = pack(view)
        assert torch.equal(unpack(values, record, tuple(view.shape)), view)


def test_another_shape_than_expected_takes_no_memory():
    values, record = pack(torch.zeros(64, 64))
    wrong = unpack(values, record, (32, 32))
    assert wrong.shape == (64, 64) and wrong.untyped_storage().nbytes() <= 8


@pytest.mark.parametrize("density", [1.0, 0.5, 0.05])
def test_any_flipped_bit_is_noticed(density):
    tensor = sparse_tensor((7, 30), torch.float32, density, seed=3)
    values, record = pack(tensor)
    for position in range(len(record)):
        damaged = record.clone()
        damaged[position] ^= 1 << (position % 8)
        with pytest.raises(RunError):
            unpack(values, damaged, (7, 30))
    for position in range(values.nbytes):
        damaged = values.clone()
        bits(damaged)[position] ^= 1 << (position % 8)
        with pytest.raises(RunError, match="checksum"):
            unpack(damaged, record, (7, 30))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: b"", "cut short"),
        (lambda r: r[:9], "cut short"),
        (lambda r: r[:4] + b"\x09" + r[5:], "encoding 9 is unknown"),
        (lambda r: r[:5] + b"\xff" + r[6:] + bytes(2048), "claims 255 dimensions"),
        (lambda r: r[:6] + struct.pack("<QQ", 2**62, 2**62) + r[22:], "impossible"),
        (lambda r: r[:6] + struct.pack("<QQ", 2**40, 8) + r[22:], "bitmask has 16 bytes for 8796093022208 elements"),
        (lambda r: r[:-1], "bitmask has 15 bytes"),
        (lambda r: r[:22] + b"\xff" + r[23:], "marks the positions"),
    ],
)
def test_a_tampered_record_is_refused_even_with_a_right_checksum(change, message):
    tensor = sparse_tensor((16, 8), torch.float32, 0.4, seed=5)
    values, record = pack(tensor)
    assert encoding(record) == Encoding.BITMASK
    changed = change(bytes(record.numpy()))
    sealed = reseal(changed)(values) if len(changed) >= 6 else torch.tensor(list(changed), dtype=torch.uint8)
    with pytest.raises(RunError, match=message):
        unpack(values, sealed, (16, 8))


@pytest.mark.parametrize(
    ("gaps", "message"), [(b"\xff\xff", "beyond its 300"), (b"\x01\x00", "positions of 1 values")]
)
def test_tampered_gaps_are_refused_even_with_a_right_checksum(gaps, message):
    tensor = torch.zeros(300)
    tensor[[7, 99]] = 1.0
    values, record = pack(tensor)
    assert encoding(record) == Encoding.GAPS
    with pytest.raises(RunError, match=message):
        unpack(values, reseal(bytes(record.numpy())[:-2] + gaps)(values), (300,))


def test_values_of_another_kind_are_refused():
    values, record = pack(sparse_tensor((16, 8), torch.float32, 0.4, seed=5))
    for other in (values.view(torch.int32), values.reshape(1, -1), values[:-1], values.to(torch.complex128)):
        with pytest.raises(RunError):
            unpack(other, record, (16, 8))
