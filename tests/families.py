"""One tiny, randomly initialised image classifier a family: name -> how it is built, and the size of its images."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_compress import load
from hf_compress.checkpoint.labels import label_options

CUSTOM = Path(__file__).resolve().parents[2] / "shared" / "models" / "resnet56-cifar10"
LABELS = label_options([str(digit) for digit in range(10)])


@dataclass(frozen=True, eq=False)
class Family:
    """A row of the matrix.

    Attributes:
        name: as transformers or timm call it.
        config: class of the transformers config; empty for custom code.
        options: what makes it tiny.
        image_size: height and width of its images, in pixels.
        model: class of the model, where transformers has several for the config.
    """

    name: str
    config: str
    options: dict[str, Any] = field(default_factory=dict)
    image_size: int = 32
    model: str = ""

    @property
    def available(self) -> bool:
        return bool(self.config) or CUSTOM.is_dir()

    def build(self):
        """Return the model in eval mode, with random weights; custom code comes with its own."""
        import torch
        import transformers

        if not self.config:
            return load(str(CUSTOM), trust_remote_code=True).model
        torch.manual_seed(0)
        config = getattr(transformers, self.config)(**self.options, **LABELS)
        if self.model:
            model = getattr(transformers, self.model)(config)
        else:
            model = transformers.AutoModelForImageClassification.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():  # no zeros and no tiny scales: every weight matters to the logits
                parameter += 0.02 * torch.randn_like(parameter)
        images = torch.rand(4, 3, self.image_size, self.image_size)
        torch.optim.swa_utils.update_bn([images], model)  # or the logits vanish
        return model.eval()

    def processor(self):
        """Return an image processor that makes images of the family's size."""
        from transformers import TimmWrapperImageProcessor, ViTImageProcessor

        if not self.config:
            return load(str(CUSTOM), trust_remote_code=True).processor
        if self.config == "TimmWrapperConfig":
            return TimmWrapperImageProcessor(self.options["pretrained_cfg"], architecture=self.options["architecture"])
        return ViTImageProcessor(size={"height": self.image_size, "width": self.image_size})


VIT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
TOWER = {**VIT, "projection_dim": 16}
STAGES = {"hidden_sizes": [16, 32], "depths": [1, 2]}


def timm(architecture: str, image_size: int = 32, **model_args: Any) -> Family:
    """A timm architecture through transformers' wrapper."""
    normalisation = {"input_size": [3, image_size, image_size], "mean": [0.5] * 3, "std": [0.5] * 3}
    options = {"architecture": architecture, "pretrained_cfg": normalisation, "model_args": model_args or None}
    return Family(f"timm {architecture}", "TimmWrapperConfig", options, image_size)


FAMILIES = [
    Family("resnet", "ResNetConfig", {"embedding_size": 16, **STAGES, "layer_type": "bottleneck"}),
    Family("regnet", "RegNetConfig", {"embedding_size": 16, **STAGES, "groups_width": 8}),
    Family("bit", "BitConfig", {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 2], "num_groups": 4}),
    Family("convnext", "ConvNextConfig", {"num_stages": 2, **STAGES}),
    Family("convnextv2", "ConvNextV2Config", {"num_stages": 2, **STAGES}),
    Family(
        "efficientnet",
        "EfficientNetConfig",
        {"width_coefficient": 0.25, "depth_coefficient": 0.1, "image_size": 32, "hidden_dim": 320},
    ),
    Family("mobilenet_v1", "MobileNetV1Config", {"depth_multiplier": 0.25, "image_size": 32}),
    Family("mobilenet_v2", "MobileNetV2Config", {"depth_multiplier": 0.25, "image_size": 32}),
    Family(
        "mobilevit",
        "MobileViTConfig",
        {
            "hidden_sizes": [16, 24, 32],
            "neck_hidden_sizes": [8, 16, 24, 24, 32, 32, 48],
            "num_attention_heads": 4,
            "image_size": 64,
            "expand_ratio": 2.0,
        },
        64,
    ),
    Family(
        "mobilevitv2",
        "MobileViTV2Config",
        {"width_multiplier": 0.25, "base_attn_unit_dims": [32, 64, 64], "n_attn_blocks": [1, 1, 1], "image_size": 64},
        64,
    ),
    Family(
        "levit",
        "LevitConfig",
        {
            "hidden_sizes": [16, 32, 32],
            "num_attention_heads": [2, 4, 4],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
            "image_size": 64,
        },
        64,
        "LevitForImageClassification",
    ),
    Family("poolformer", "PoolFormerConfig", {"hidden_sizes": [16, 32, 32, 32], "depths": [1, 1, 1, 1]}, 64),
    Family("cvt", "CvtConfig", {"embed_dim": [16, 32, 32], "num_heads": [2, 4, 4], "depth": [1, 2, 3]}, 64),
    Family(
        "focalnet",
        "FocalNetConfig",
        {
            "embed_dim": 16,
            "depths": [1, 2],
            "focal_levels": [2, 2],
            "focal_windows": [3, 3],
            "hidden_sizes": [16, 32],
            "image_size": 32,
        },
    ),
    Family("vit", "ViTConfig", VIT),
    Family("deit", "DeiTConfig", VIT, model="DeiTForImageClassification"),
    Family("beit", "BeitConfig", {**VIT, "use_relative_position_bias": True, "use_mean_pooling": True}),
    Family("data2vec-vision", "Data2VecVisionConfig", {**VIT, "use_shared_relative_position_bias": True}),
    Family(
        "swin",
        "SwinConfig",
        {"embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4, "image_size": 32, "patch_size": 4},
    ),
    Family(
        "swinv2",
        "Swinv2Config",
        {"embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4, "image_size": 32, "patch_size": 4},
    ),
    Family(
        "donut-swin",
        "DonutSwinConfig",
        {"embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4, "image_size": 32, "patch_size": 4},
    ),
    Family(
        "pvt",
        "PvtConfig",
        {
            "hidden_sizes": [16, 32, 32, 64],
            "num_attention_heads": [2, 2, 4, 8],
            "depths": [1, 1, 1, 1],
            "image_size": 64,
        },
        64,
    ),
    Family(
        "pvt_v2",
        "PvtV2Config",
        {
            "hidden_sizes": [16, 32, 32, 64],
            "num_attention_heads": [2, 2, 4, 8],
            "depths": [1, 1, 1, 1],
            "mlp_ratios": [2, 2, 2, 2],
            "image_size": 64,
        },
        64,
    ),
    Family("dinov2", "Dinov2Config", {**VIT, "mlp_ratio": 2}),
    Family("dinov2_with_registers", "Dinov2WithRegistersConfig", {**VIT, "mlp_ratio": 2, "num_register_tokens": 2}),
    Family(
        "segformer",
        "SegformerConfig",
        {
            "hidden_sizes": [16, 32, 32, 64],
            "num_attention_heads": [2, 2, 4, 8],
            "depths": [1, 1, 1, 1],
            "mlp_ratios": [2, 2, 2, 2],
        },
        64,
    ),
    Family(
        "swiftformer",
        "SwiftFormerConfig",
        {"embed_dims": [16, 32, 32, 64], "depths": [1, 1, 1, 1], "mlp_ratio": 2},
        64,
    ),
    Family(
        "clip",
        "CLIPConfig",
        {
            "vision_config": TOWER,
            "text_config": {
                "num_hidden_layers": 1,
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_attention_heads": 2,
                "vocab_size": 99,
            },
        },
    ),
    Family(
        "metaclip_2",
        "MetaClip2Config",
        {
            "vision_config": TOWER,
            "text_config": {
                "num_hidden_layers": 1,
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_attention_heads": 2,
                "vocab_size": 99,
            },
        },
    ),
    Family(
        "siglip",
        "SiglipConfig",
        {
            "vision_config": VIT,
            "text_config": {
                "num_hidden_layers": 1,
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_attention_heads": 2,
                "vocab_size": 99,
            },
        },
    ),
    Family(
        "siglip2",
        "Siglip2Config",
        {
            "vision_config": {**VIT, "num_patches": 16},
            "text_config": {
                "num_hidden_layers": 1,
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_attention_heads": 2,
                "vocab_size": 99,
            },
        },
    ),
    Family(
        "hiera",
        "HieraConfig",
        {
            "embed_dim": 16,
            "image_size": [64, 64],
            "depths": [1, 1, 1],
            "num_heads": [2, 4, 4],
            "num_query_pool": 2,
            "masked_unit_size": [4, 4],
            "mlp_ratio": 2.0,
            "embed_dim_multiplier": 2.0,
        },
        64,
    ),
    Family("ijepa", "IJepaConfig", VIT),
    Family("vit_msn", "ViTMSNConfig", VIT),
    Family(
        "imagegpt", "ImageGPTConfig", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 17, "n_positions": 64}
    ),
    Family(
        "perceiver",
        "PerceiverConfig",
        {
            "num_latents": 8,
            "d_latents": 32,
            "num_blocks": 1,
            "num_self_attends_per_block": 1,
            "num_self_attention_heads": 4,
            "num_cross_attention_heads": 1,
            "image_size": 16,
        },
        16,
        "PerceiverForImageClassificationLearned",
    ),
    Family(
        "textnet",
        "TextNetConfig",
        {"stem_out_channels": 16, "hidden_sizes": [16, 16, 32, 32, 32], "image_size": [32, 32]},
    ),
    Family(
        "hgnet_v2",
        "HGNetV2Config",
        {
            "stem_channels": [3, 16, 16],
            "stage_in_channels": [16, 32, 64, 64],
            "stage_mid_channels": [16, 16, 32, 32],
            "stage_out_channels": [32, 64, 64, 64],
            "stage_num_blocks": [1, 1, 2, 1],
            "stage_numb_of_layers": [2, 2, 2, 2],
            "hidden_sizes": [32, 64, 64, 64],
            "depths": [1, 1, 2, 1],
        },
    ),
    Family("pp_lcnet", "PPLCNetConfig", {"scale": 0.25}),
    Family("dinat", "DinatConfig", {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "kernel_size": 3}),
    timm("resnet18", channels=[16, 16, 32, 32]),
    timm("mobilenetv3_small_050"),
    timm("efficientnet_b0"),
    timm("convnext_atto", depths=[1, 1, 2, 1], dims=[16, 32, 32, 64]),
    timm("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=32, num_heads=4),
    timm("deit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=32, num_heads=4),
    timm("swin_tiny_patch4_window7_224", img_size=32, window_size=4, embed_dim=16, depths=[1, 2], num_heads=[2, 4]),
    timm("repvgg_a0"),
    timm("efficientformer_l1", 224, depths=[1, 1, 1, 2], embed_dims=[8, 16, 16, 32], num_vit=1),
    Family("resnet56-cifar10 (custom code)", ""),
]
