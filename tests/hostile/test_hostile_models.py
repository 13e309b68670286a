"""Model folders that lack something, hold too much, or are not what they say."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from refusals import ends, refusal
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from hf_compress import load, save
from hf_compress.models.embeddings import load_backbone
from hf_compress.models.students import build_registered

WEIGHTS, CONFIG, PROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
OUTSIDE = "names weights outside its own folder"
FIRST = "resnet.embedder.embedder.convolution.weight"
HEAD = "classifier.1.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    built = build_registered("resnet18", ["cat", "dog"], width=0.125, image_size=32)
    save(built.model, folder, built.processor)
    return folder


def with_weights(change):
    """Return what rewrites the weights of a folder: `change` gets them by name."""

    def write(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        save_file(change(weights) or weights, folder / WEIGHTS, metadata={"format": "pt"})

    return write


def with_config(file=CONFIG, **values):
    """Return what sets values of a JSON file; None removes one."""

    def write(folder: Path) -> None:
        config = json.loads((folder / file).read_text()) | values
        (folder / file).write_text(json.dumps({key: value for key, value in config.items() if value is not None}))

    return write


def with_text(text: str | bytes, file=CONFIG):
    return lambda folder: (folder / file).write_bytes(text if isinstance(text, bytes) else text.encode())


def without(*files):
    return lambda folder: [(folder / file).unlink() for file in files]


def sharded(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    names = sorted(weights)
    parts = {f"model-0000{n}-of-00003.safetensors": names[n - 1 :: 3] for n in (1, 2, 3)}
    for file, held in parts.items():
        save_file({name: weights[name] for name in held}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, held in parts.items() for name in held}}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    (folder / WEIGHTS).unlink()


def elsewhere(where: str, index=f"{WEIGHTS}.index.json"):
    """Return what puts the weights in parts into another place, seen from the model, where the index names them."""

    def write(folder: Path) -> None:
        sharded(folder)
        place = where.format(absolute=folder.parent.resolve())
        (folder / place).mkdir(parents=True, exist_ok=True)
        for part in folder.glob("model-*.safetensors"):
            part.rename(folder / place / part.name)
        content = json.loads((folder / f"{WEIGHTS}.index.json").read_text())
        content["weight_map"] = {name: f"{place}/{file}" for name, file in content["weight_map"].items()}
        (folder / f"{WEIGHTS}.index.json").unlink()
        (folder / index).write_text(json.dumps(content))

    return write


def elsewhere_by_config(folder: Path) -> None:
    elsewhere("../apart", "mine.safetensors.index.json")(folder)
    with_config(transformers_weights="mine.safetensors.index.json")(folder)


def named_outside(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.parent / WEIGHTS)
    with_config(transformers_weights=f"../{WEIGHTS}")(folder)


def linked(folder: Path) -> None:
    """As the cache of the Hub keeps its files."""
    for file in (WEIGHTS, CONFIG):
        (folder / file).rename(folder.parent / file)
        (folder / file).symlink_to(folder.parent / file)


def linked_parts(folder: Path) -> None:
    sharded(folder)
    for part in folder.glob("model-*.safetensors"):
        part.rename(folder.parent / part.name)
        part.symlink_to(folder.parent / part.name)


class Owned:
    """Unpickled, it leaves a file behind."""

    def __reduce__(self):
        return Path.touch, (Path("owned"),)


def pickled(folder: Path, content=None) -> None:
    torch.save(content or load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def raw_pickle(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Owned()))
    (folder / WEIGHTS).unlink()


def text_model(folder: Path) -> None:
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=10, **small)).save_pretrained(folder)


def header(length: int, text: bytes = b""):
    return with_text(length.to_bytes(8, "little") + text, WEIGHTS)


def tensors(**entries):
    text = json.dumps(entries).encode()
    return header(len(text), text)


def own_code(folder: Path) -> None:
    names = {"AutoConfig": "own.Config", "AutoModelForImageClassification": "own.Model"}
    with_config(auto_map=names, model_type="own")(folder)
    (folder / "own.py").write_text("from pathlib import Path\nPath('owned').touch()\n")


def head_of(number: int):
    def change(weights):
        weights[HEAD] = torch.randn(number, weights[HEAD].shape[1])
        weights["classifier.1.bias"] = torch.randn(number)

    def write(folder: Path) -> None:
        with_weights(change)(folder)
        labels = {str(index): f"label {index}" for index in range(number)}
        with_config(id2label=labels, label2id={name: int(index) for index, name in labels.items()})(folder)

    return write


def set_first(value: float):
    return lambda weights: weights[FIRST].view(-1)[:1].fill_(value) and None


def huge(**values):
    return with_config(**values), "config.json declares"


SAME, HALF = 0.0, 0.05
CASES = {
    "whole": (lambda folder: None, SAME),
    "half precision": (
        with_weights(lambda w: {k: v.half() if v.is_floating_point() else v for k, v in w.items()}),
        HALF,
    ),
    "bfloat16": (
        with_weights(lambda w: {k: v.bfloat16() if v.is_floating_point() else v for k, v in w.items()}),
        HALF,
    ),
    "double precision": (
        with_weights(lambda w: {k: v.double() if v.is_floating_point() else v for k, v in w.items()}),
        SAME,
    ),
    "a config that says half precision": (with_config(dtype="float16"), SAME),
    "a config that says no such precision": (with_config(dtype="float17"), "cannot be"),
    "sharded": (sharded, SAME),
    "sharded, a shard is gone": (lambda f: (sharded(f), without("model-00002-of-00003.safetensors")(f)), "cannot be"),
    "sharded, beside the folder": (elsewhere(".."), OUTSIDE),
    "sharded, by an absolute path": (elsewhere("{absolute}"), OUTSIDE),
    "sharded, by way of a folder": (elsewhere("parts/../../apart"), OUTSIDE),
    "sharded, by an index for pickles": (elsewhere("..", "pytorch_model.bin.index.json"), OUTSIDE),
    "sharded, by an index that the config names": (elsewhere_by_config, OUTSIDE),
    "weights beside the folder, that the config names": (named_outside, OUTSIDE),
    "sharded, in a folder inside": (elsewhere("parts"), SAME),
    "links to files elsewhere": (linked, SAME),
    "links to parts elsewhere": (linked_parts, SAME),
    "code from elsewhere without the flag": (
        with_config(auto_map={"AutoConfig": "../evil.Config", "AutoModelForImageClassification": "../evil.Model"}),
        None,
    ),
    "an index of no JSON": (lambda f: (sharded(f), with_text("{", f"{WEIGHTS}.index.json")(f)), "cannot be loaded"),
    "weights too many": (with_weights(lambda w: {**w, "extra.weight": torch.ones(3)}), SAME),
    "a weight is gone": (with_weights(lambda w: w.pop(FIRST) is None), f"the first is '{FIRST}'"),
    "the head is gone": (with_weights(lambda w: w.pop(HEAD) is None), "lacks the weights of the classification head"),
    "all weights are gone": (with_weights(lambda w: {"other": torch.ones(1)}), "cannot be loaded"),
    "a weight of another shape": (with_weights(lambda w: {**w, FIRST: torch.ones(3, 3)}), "cannot be loaded"),
    "a weight of integers": (with_weights(lambda w: {**w, FIRST: torch.ones_like(w[FIRST]).int()}), None),
    "nan": (with_weights(set_first(float("nan"))), f"'{FIRST}' first"),
    "infinity": (with_weights(set_first(float("inf"))), f"'{FIRST}' first"),
    "one label": (head_of(1), None),
    "labels of numbers": (with_config(id2label={"0": 7, "1": 8}), None),
    "labels of nothing": (with_config(id2label={}, label2id={}), "model"),
    "labels that are a list": (with_config(id2label=["cat", "dog"]), "cannot be loaded"),
    "labels by name": (with_config(id2label={"cat": 0, "dog": 1}), "cannot be loaded"),
    "labels with a gap": (with_config(id2label={"0": "cat", "5": "dog"}), "none of them 1"),
    "the same label twice": (with_config(id2label={"0": "cat", "1": "cat"}), SAME),
    "no processor": (without(PROCESSOR), "no usable preprocessor_config.json"),
    "a processor of no JSON": (with_text("{", PROCESSOR), "model"),
    "a processor of nothing": (with_text("{}", PROCESSOR), None),
    "an unknown processor": (with_config(PROCESSOR, image_processor_type="Nobody"), "preprocessor_config.json"),
    "a processor of no size": (with_config(PROCESSOR, size={"height": 0, "width": 0}), "cannot be used"),
    "a processor of one mean": (with_config(PROCESSOR, image_mean=[0.5], image_std=[0.5]), SAME),
    "no config": (without(CONFIG), "no config.json"),
    "a config of no JSON": (with_text("{"), "cannot be loaded"),
    "an empty config": (with_text(""), "cannot be loaded"),
    "a config that is a list": (with_text("[1, 2]"), "cannot be loaded"),
    "a config of bytes": (with_text(b"\xff\xfe\x00"), "cannot be loaded"),
    "a deep config": (with_text('{"a": ' * 100_000), "cannot be loaded"),
    "an unknown architecture": (with_config(model_type="nobody"), "cannot be loaded"),
    "no architecture": (with_config(model_type=None, architectures=None), "cannot be loaded"),
    "a text model": (text_model, "is not an image classifier"),
    "no weights": (without(WEIGHTS), "cannot be loaded"),
    "empty weights": (with_text(b"", WEIGHTS), "cannot be loaded"),
    "truncated weights": (lambda f: with_text((f / WEIGHTS).read_bytes()[:-100], WEIGHTS)(f), "cannot be loaded"),
    "weights of text": (with_text("no tensors" * 10, WEIGHTS), "cannot be loaded"),
    "a header of 2^63 bytes": (header(2**63 - 1), "cannot be loaded"),
    "a header of no JSON": (header(4, b"{{{{"), "cannot be loaded"),
    "a tensor of 10^18 numbers": (
        tensors(**{FIRST: {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4 * 10**18]}}),
        "cannot be loaded",
    ),
    "a tensor behind the end": (
        tensors(**{FIRST: {"dtype": "F32", "shape": [4], "data_offsets": [100, 116]}}),
        "cannot be loaded",
    ),
    "a pickle": (pickled, SAME),
    "a pickle that runs code": (raw_pickle, "a pickle that holds more than tensors"),
    "a checkpoint that runs code": (
        lambda folder: pickled(folder, {FIRST: Owned()}),
        "a pickle that holds more than tensors",
    ),
    "own code without the flag": (own_code, "--trust-remote-code"),
    "10^9 labels": huge(num_labels=10**9, id2label=None, label2id=None),
    "channels of 10^12": huge(hidden_sizes=[10**12] * 4),
    "10^9 layers": huge(depths=[10**9, 1, 1, 1]),
    "9999 layers a stage": (with_config(depths=[9999] * 4), "declares depths 39996, which is more than 2,000"),
    "wide and deep": (with_config(depths=[500] * 4, hidden_sizes=[90_000] * 4), "of about 1.6e+13 weights"),
    "labels that are called like sizes": (
        with_config(
            id2label={"0": "building blocks", "1": "size"}, label2id={"building blocks": 10**6, "size": 10**6}
        ),
        None,
    ),
    "half a million labels": (
        with_config(id2label={str(n): f"label {n}" for n in range(500_000)}, label2id=None),
        "declares id2label 500000, which is more than 100,000",
    ),
    "pictures of 30,000 pixels a side": (
        with_config(PROCESSOR, size={"height": 30_000, "width": 30_000}),
        "10.8 GB each (3 channels, float32)",
    ),
    "pictures of 30,000 pixels at the shortest edge": (
        with_config(PROCESSOR, size={"shortest_edge": 30_000}),
        "makes pictures of shortest_edge 30000",
    ),
    "pictures cut to 30,000 pixels": (
        with_config(PROCESSOR, crop_size={"height": 30_000, "width": 30_000}, do_center_crop=True),
        "makes pictures of",
    ),
    "a pipe for weights": (lambda f: (without(WEIGHTS)(f), os.mkfifo(f / WEIGHTS)), "is no regular file"),
    "a pipe for a processor": (lambda f: (without(PROCESSOR)(f), os.mkfifo(f / PROCESSOR)), "is no regular file"),
    "endless weights": (lambda f: (without(WEIGHTS)(f), (f / WEIGHTS).symlink_to("/dev/zero")), "is no regular file"),
    "a negative width": (with_config(embedding_size=-8), "cannot be loaded"),
    "no channels": (with_config(hidden_sizes=[0, 0, 0, 0]), "cannot be loaded"),
    "text for a number": (with_config(embedding_size="many"), "cannot be loaded"),
    "pruned to nonsense": (
        with_config(quantization_config={"quant_method": "hf_compress", "shapes": {"a": [1, 2]}}),
        "is damaged or was changed",
    ),
    "quantised by nobody": (with_config(quantization_config={"quant_method": "nobody"}), SAME),
}
NAMES = ["", ".", "..", "/", "a" * 5000, "a/b/c/d", "../../etc", "a\0b", "~nobody-of-that-name/x", "a\nb", "🦉/🦉",
         "hf://a/b", "https://huggingface.co/a/b", "/etc/passwd", "timm/no-such-model", "a b/c"]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_folder_gives_its_model_or_is_refused(case, whole, fenced):
    change, outcome = CASES[case]
    shutil.copytree(whole, fenced / "model")
    change(fenced / "model")
    loaded = ends(lambda: load("./model"), outcome if isinstance(outcome, str) else None)
    assert not Path("owned").exists()
    if loaded is None:
        return
    assert loaded.model.dtype == torch.float32
    assert len(loaded.label_names) == loaded.model.config.num_labels
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, whole_logits = (model(pixels).logits for model in (loaded.model, load(str(whole)).model))
    assert torch.isfinite(logits).all()
    if outcome is not None:
        assert torch.allclose(logits, whole_logits, atol=outcome or 1e-6)


@pytest.mark.parametrize("change", [elsewhere(".."), named_outside])
def test_a_backbone_does_not_read_weights_outside_its_folder_either(change, whole, fenced):
    shutil.copytree(whole, fenced / "model")
    change(fenced / "model")
    assert OUTSIDE in refusal(lambda: load_backbone("./model"))


def test_a_model_is_not_saved_into_a_file_and_leaves_other_files_alone(whole, fenced):
    loaded = load(str(whole))
    Path("file").write_text("years of work")
    assert "'file' is a file" in refusal(lambda: save(loaded.model, "file", loaded.processor))
    Path("model").mkdir()
    Path("model/thesis.tex").write_text("years of work")
    save(loaded.model, "model", loaded.processor)
    assert Path("file").read_text() == Path("model/thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("name", NAMES)
def test_a_name_without_a_model_is_refused(name, fenced):
    refusal(lambda: load(name))
