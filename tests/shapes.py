"""Pictures of coloured squares on grey ground, with masks; and a tiny model that learns them in seconds."""

import json

import numpy as np
import torch
from PIL import Image
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

from hf_compress.checkpoint import save

NAMES = ["ground", "red", "blue"]
COLOURS = np.array([[60, 60, 60], [210, 40, 40], [40, 40, 210]] + 253 * [[0, 0, 0]])
SIDE = 32
PROCESSOR = SegformerImageProcessor(size={"height": SIDE, "width": SIDE})


def drawn(generator):
    """Return a picture (40, 48, 3) and its mask (40, 48): two squares, and two rows of void."""
    mask = np.zeros((40, 48), np.uint8)
    for number in (1, 2):
        y, x = generator.integers(0, 24), generator.integers(0, 32)
        mask[y : y + 16, x : x + 16] = number
    mask[:2] = 255
    noisy = COLOURS[mask] + generator.normal(0, 10, (40, 48, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8), mask


def draw_folder(root, **counts):
    """Write folders of images and masks for splits of so many pictures, and the names of the classes."""
    generator = np.random.default_rng(0)
    for split, count in counts.items():
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for number in range(count):
            for kind, pixels in zip(("images", "masks"), drawn(generator), strict=True):
                Image.fromarray(pixels).save(root / split / kind / f"{number}.png")
    (root / "id2label.json").write_text(json.dumps(dict(enumerate(NAMES))))
    return root


def tiny_segmenter(names=NAMES, hidden=32):
    """Return a SegFormer of two stages with random weights; its maps have half the input's height and width."""
    torch.manual_seed(0)
    config = SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        hidden_sizes=[16, 32],
        num_attention_heads=[1, 2],
        sr_ratios=[4, 4],
        patch_sizes=[3, 3],
        strides=[2, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=hidden,
        id2label=dict(enumerate(names)),
        drop_path_rate=0.0,
        classifier_dropout_prob=0.0,
    )
    return SegformerForSemanticSegmentation(config).eval()


def saved_segmenter(folder, **options):
    save(tiny_segmenter(**options), folder, PROCESSOR)
    return str(folder)
