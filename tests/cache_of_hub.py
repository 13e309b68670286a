"""Tiny models with random weights under names of the Hub, where its client looks when it is offline: in its cache."""

import os
import shutil
from pathlib import Path

import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from hf_compress import save
from hf_compress.checkpoint.labels import label_options
from hf_compress.models.students import build_registered

COMMIT = "0" * 40
SIDE = 32
CLASSES = ["healthy", "rust", "scab"]
OTHERS = ["tench", "springer", "truck", "church", "horn"]  # not the classes of any photos of tests
TRANSFORMER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**TRANSFORMER, "intermediate_size": 48, "image_size": SIDE, "patch_size": 8}
TEXT = {**TRANSFORMER, "intermediate_size": 48, "vocab_size": 60, "bos_token_id": 1, "eos_token_id": 2}


def registered(name, width, labels=OTHERS):
    return build_registered(name, labels, width=width, image_size=SIDE).model


MODELS = {
    "microsoft/resnet-18": lambda: registered("resnet18", 0.25),
    "microsoft/resnet-50": lambda: registered("resnet50", 0.125),
    "google/mobilenet_v2_1.0_224": lambda: registered("mobilenet_v2", 0.35),
    "google/vit-base-patch16-224": lambda: ViTForImageClassification(ViTConfig(**VISION, **label_options(OTHERS))),
    "nateraw/vit-base-patch16-224-cifar10": lambda: ViTForImageClassification(
        ViTConfig(**VISION, **label_options(CLASSES))
    ),
    "facebook/dinov2-small": lambda: Dinov2Model(Dinov2Config(**TRANSFORMER, image_size=SIDE, patch_size=8)),
    "openai/clip-vit-base-patch32": lambda: CLIPModel(
        CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=16)
    ),
}


def saved(model, folder):
    """Write a model and an image processor of its size; return the folder."""
    save(model, folder, ViTImageProcessor(size={"height": SIDE, "width": SIDE}))
    return folder


def fill():
    """Put every model into the cache of this process, as if it had been downloaded; return the folders."""
    torch.manual_seed(0)
    folders = []
    for name, build in MODELS.items():
        folder = Path(os.environ["HF_HOME"]) / "hub" / f"models--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(COMMIT)
        saved(build(), folder / "snapshots" / COMMIT)
        folders.append(folder)
    return folders


def empty(folders):
    for folder in folders:
        shutil.rmtree(folder)
