"""Tiny detectors, and pictures of red and green squares to find."""

import json

import numpy as np
import torch
from PIL import Image
from transformers import (
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrImageProcessor,
    RTDetrResNetConfig,
    YolosConfig,
    YolosForObjectDetection,
    YolosImageProcessor,
)

from hf_compress.checkpoint import save
from hf_compress.checkpoint.labels import label_options

NAMES = ["red", "green"]
SIDE = 64


def write_squares(folder, names=NAMES, counts=(("train", 24), ("val", 8), ("test", 8))):
    """Write pictures of one or two squares, with their boxes in COCO's form."""
    generator = np.random.default_rng(0)
    for split, count in counts:
        (folder / split).mkdir(parents=True)
        images, annotations = [], []
        for number in range(count):
            picture = generator.integers(0, 60, (48, 80, 3), dtype=np.uint8)
            for place in range(1 + number % 2):
                kind, side = int(generator.integers(2)), int(generator.integers(14, 26))
                x, y = int(generator.integers(40 - side)) + 40 * place, int(generator.integers(48 - side))
                picture[y : y + side, x : x + side, kind] = 250
                box = {"bbox": [x, y, side, side], "category_id": kind, "image_id": number, "area": side**2}
                annotations.append(box | {"id": len(annotations), "iscrowd": 0})
            Image.fromarray(picture).save(folder / split / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": 80, "height": 48})
        categories = [{"id": index, "name": name} for index, name in enumerate(names)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / split / "_annotations.coco.json").write_text(json.dumps(content))
    return str(folder)


def rt_detr(names=NAMES):
    """Return an RT-DETR that selects its queries."""
    torch.manual_seed(0)
    backbone = RTDetrResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 24, 32, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = RTDetrConfig(
        backbone_config=backbone,
        encoder_hidden_dim=32,
        encoder_in_channels=[24, 32, 32],
        encoder_ffn_dim=48,
        encoder_attention_heads=2,
        decoder_in_channels=[32, 32, 32],
        d_model=32,
        decoder_layers=2,
        decoder_ffn_dim=48,
        decoder_attention_heads=2,
        decoder_n_points=2,
        num_queries=20,
        num_denoising=10,
        hidden_expansion=0.5,
        anchor_image_size=None,
        initializer_range=0.2,  # with 0.01, places of so small a model are all alike
        **label_options(names),
    )
    model = RTDetrForObjectDetection(config).eval()
    torch.nn.init.normal_(model.model.enc_score_head.weight)  # as it begins, all places are alike
    return model


def yolos(names=NAMES, intermediate_size=48):
    """Return a YOLOS, whose queries are learnt, with a softmax over classes and no object."""
    torch.manual_seed(0)
    config = YolosConfig(
        image_size=[SIDE, SIDE],
        patch_size=16,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=intermediate_size,
        num_detection_tokens=8,
        use_mid_position_embeddings=False,
        **label_options(names),
    )
    return YolosForObjectDetection(config).eval()


def saved_detector(model, folder):
    size = {"height": SIDE, "width": SIDE}
    made_for = YolosImageProcessor if isinstance(model, YolosForObjectDetection) else RTDetrImageProcessor
    save(model, folder, made_for(size=size))
    return str(folder)
