"""Sparse checkpoints load, train and save through transformers' own calls; damaged ones never load wrong numbers."""

import copy
import json
import random
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    ResNetConfig,
    Trainer,
    TrainingArguments,
    ViTConfig,
)

from hf_compress import load, save
from hf_compress.checkpoint.sparse_files import SUFFIX
from hf_compress.ground.errors import CompressError, RunError
from hf_compress.measure.cost import bytes_on_disk
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.weights import WeightPruner

IMAGE = torch.randn(2, 3, 32, 32)
RESNET = ResNetConfig(embedding_size=16, hidden_sizes=[32, 64], depths=[1, 1], layer_type="basic", num_labels=4)
VIT = ViTConfig(
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=128,
    image_size=32,
    patch_size=8,
    num_labels=4,
)


def sparse_model(config=RESNET, sparsity=0.9, seed=0):
    torch.manual_seed(seed)
    model = AutoModelForImageClassification.from_config(copy.deepcopy(config)).eval()
    WeightPruner(model, PruneSection(granularity="weight", floor=0), set()).prune(model, sparsity)
    return model


def reload(folder, **options):
    return AutoModelForImageClassification.from_pretrained(folder, **options)


def assert_same(first, second):
    expected = second.state_dict()
    assert first.state_dict().keys() == expected.keys()
    for name, tensor in first.state_dict().items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor.cpu().reshape(-1).view(torch.uint8), expected[name].reshape(-1).view(torch.uint8))


def files(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@pytest.mark.parametrize("config", [RESNET, VIT], ids=["resnet", "vit"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_sparse_folder_is_smaller_and_reloads_exactly(config, dtype, tmp_path):
    model = sparse_model(config).to(dtype)
    copy.deepcopy(model).save_pretrained(tmp_path / "dense")
    save(model, tmp_path / "sparse")
    dense, sparse = ((tmp_path / kind / "model.safetensors").stat().st_size for kind in ("dense", "sparse"))
    assert sparse < 0.45 * dense
    assert bytes_on_disk(model) == sparse
    assert_same(reload(tmp_path / "sparse", dtype="auto"), model)
    assert not list((tmp_path / "sparse").glob("*.bin"))


@pytest.mark.parametrize("config", [RESNET, VIT], ids=["resnet", "vit"])
def test_shards_and_device_maps_reload_exactly(config, tmp_path, monkeypatch):
    model = sparse_model(config)
    save(model, tmp_path)
    model.save_pretrained(tmp_path / "shards", max_shard_size="15KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert_same(reload(tmp_path / "shards"), model)
    assert_same(reload(tmp_path / "shards", device_map={"": "cpu"}), model)
    offloaded = reload(tmp_path, device_map={"": "disk"}, offload_folder=tmp_path / "offload", offload_buffers=True)
    with torch.no_grad():
        assert torch.equal(offloaded(IMAGE).logits, model(IMAGE).logits)
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")
    assert_same(reload(tmp_path / "shards"), model)


def test_an_offloaded_model_saves_all_of_its_weights(tmp_path):
    model = sparse_model()
    save(model, tmp_path / "first")
    offloaded = reload(
        tmp_path / "first", device_map={"": "disk"}, offload_folder=tmp_path / "o", offload_buffers=True
    )
    offloaded.save_pretrained(tmp_path / "second")
    assert_same(reload(tmp_path / "second"), model)


def test_storage_is_sparse_where_that_saves_a_twentieth(tmp_path):
    """A bit an entry and the records take 5 % of this model's bytes: 9 % zeros save 4 %."""
    sizes = {}
    for sparsity in (0.0, 0.09, 0.15):
        save(sparse_model(sparsity=max(sparsity, 1e-9)), tmp_path / str(sparsity))
        sizes[sparsity] = (tmp_path / str(sparsity) / "model.safetensors").stat().st_size
    assert sizes[0.0] == sizes[0.09]
    assert sizes[0.15] < 0.95 * sizes[0.0]


def test_a_model_without_enough_zeros_is_stored_dense(tmp_path):
    model = sparse_model(sparsity=0.01)
    save(model, tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()


def test_zero_biases_alone_do_not_make_storage_sparse(tmp_path):
    model = sparse_model(VIT, sparsity=1e-9)
    assert sum(int((p == 0).sum()) for p in model.parameters()) > 500
    save(model, tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())


def test_a_reloaded_model_is_cast_and_trained_and_its_checkpoints_resume(tmp_path):
    save(sparse_model(), tmp_path / "first")
    assert reload(tmp_path / "first", dtype=torch.bfloat16).dtype == torch.bfloat16
    model = reload(tmp_path / "first")
    assert copy.deepcopy(model).half().dtype == torch.float16
    arguments = TrainingArguments(
        str(tmp_path / "t"),
        num_train_epochs=2,
        report_to="none",
        use_cpu=True,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        learning_rate=1e-6,
    )
    rows = [{"pixel_values": IMAGE[0], "labels": 1}] * 4
    Trainer(model, arguments, train_dataset=rows, eval_dataset=rows).train()
    save(model, tmp_path / "second")
    assert_same(reload(tmp_path / "second"), model)


def test_a_trainers_sparse_checkpoint_goes_back_into_the_model(tmp_path):
    model = sparse_model()
    save(model, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert any(name.endswith(SUFFIX) for name in stored)
    other = sparse_model(seed=1)
    save(other, tmp_path / "other")
    other.load_state_dict(stored)
    assert_same(other, model)


def test_backbone_and_new_head_load_from_a_sparse_classifier(tmp_path):
    model = sparse_model()
    save(model, tmp_path)
    assert_same(AutoModel.from_pretrained(tmp_path), model.resnet)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        reload(tmp_path, num_labels=7)
    assert_same(reload(tmp_path, num_labels=7, ignore_mismatched_sizes=True).resnet, model.resnet)


def damage_header(path, edit):
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    edit(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


@pytest.mark.parametrize("part", ["", SUFFIX])
def test_missing_values_or_records_are_named(part, tmp_path):
    model = sparse_model()
    save(model, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    del stored["classifier.1.weight" + part]
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match="'classifier.1.weight' but not its values" if not part else "43"):
        reload(tmp_path)


def test_two_tensors_of_one_shape_cannot_be_swapped(tmp_path):
    model = sparse_model(VIT)
    save(model, tmp_path)
    path = tmp_path / "model.safetensors"
    with safe_open(path, framework="pt") as content:
        first, second = [name for name in content.keys() if name.endswith("attention.query.weight")]  # noqa: SIM118

    def swap(header):
        header[first], header[second] = header[second], header[first]

    damage_header(path, swap)
    with pytest.raises(RunError, match="cannot be loaded"):
        reload(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"sparse_records": -1},
        {"sparse_records": "44"},
        {"sparse_records": 1},
        {"shapes": ["resnet"]},
        {"shapes": {"resnet": 1}},
        {"shapes": {"nowhere": {"attributes": {}, "tensors": {}}}},
        {"shapes": {"classifier.1": {"attributes": {"forward": 1}, "tensors": {}}}},
        {"shapes": {"classifier.1": {"attributes": {}, "tensors": {"weight": [2**40, 2**40]}}}},
        {"shapes": {"classifier.1": {"attributes": {}, "tensors": {"weight": [4]}}}},
        {"shapes": {"classifier.1": {"attributes": {}, "tensors": {"in_features": [4, 4]}}}},
    ],
)
def test_a_changed_config_is_refused_in_one_sentence(change, tmp_path):
    save(sparse_model(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] |= change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError) as refusal:
        reload(tmp_path)
    assert "\n" not in str(refusal.value)


def test_load_explains_a_truncated_file(tmp_path):
    save(sparse_model(), tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}})
    )
    with pytest.raises(CompressError, match=r"model\.safetensors' is not a whole safetensors file"):
        load(str(tmp_path))


def corrupt(raw, chance):
    """Return a damaged copy: flipped bits, a cut, bytes put in or taken out, a header that says something else."""
    raw = bytearray(raw)
    header_end = 8 + struct.unpack("<Q", raw[:8])[0]
    kind = chance.choice(["flip", "flip", "header", "cut", "insert", "delete", "zero", "number"])
    if kind == "cut":
        return bytes(raw[: chance.randrange(len(raw))])
    place = chance.randrange(header_end if kind in ("header", "number") else len(raw))
    if kind in ("flip", "header"):
        raw[place] ^= 1 << chance.randrange(8)
    elif kind == "insert":
        raw[place:place] = chance.randbytes(chance.randrange(1, 9))
    elif kind == "delete":
        del raw[place : place + chance.randrange(1, 9)]
    elif kind == "zero":
        raw[place : place + 16] = bytes(len(raw[place : place + 16]))
    else:
        digits = [i for i in range(8, header_end) if chr(raw[i]).isdigit()]
        raw[chance.choice(digits)] = ord(chance.choice("0123456789"))
    return bytes(raw)


@pytest.mark.parametrize("files", [200, pytest.param(2000, marks=pytest.mark.long)])
def test_corrupted_files_never_load_wrong_numbers(files, tmp_path):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[16], depths=[1], layer_type="basic", num_labels=3)
    model = sparse_model(config, sparsity=0.85)
    save(model, tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    assert any(name.endswith(SUFFIX) for name in load_file(path))
    config = AutoConfig.from_pretrained(tmp_path)  # once: reading it takes as long as the weights
    chance = random.Random(0)
    refused = harmless = 0
    for _ in range(files):
        damaged = corrupt(whole, chance)
        path.unlink()  # earlier loads may still map the file
        path.write_bytes(damaged)
        try:
            again = reload(tmp_path, config=copy.deepcopy(config))
        except RunError as error:
            assert "\n" not in str(error) and "MemoryError" not in str(error)
            refused += 1
        else:
            assert_same(again, model)
            harmless += 1
    assert refused > 0.9 * files and harmless < 0.1 * files
