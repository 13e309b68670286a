"""Backbones without a classifier: every way to name one, and which of their outputs is the embedding."""

from pathlib import Path

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    ConvNextConfig,
    ConvNextModel,
    Dinov2Config,
    Dinov2Model,
    PoolFormerConfig,
    PoolFormerModel,
    ResNetConfig,
    ResNetModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTModel,
)

from hf_compress import load, save
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.models.embeddings import Embedder, load_backbone, pooled_embedding
from hf_compress.models.students import build_registered

SHARED = Path(__file__).resolve().parents[3] / "shared" / "models"
TRANSFORMER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {**TRANSFORMER, "intermediate_size": 24, "image_size": 32, "patch_size": 8}
TEXT = {**TRANSFORMER, "intermediate_size": 24, "vocab_size": 60, "bos_token_id": 1, "eos_token_id": 2}
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
BACKBONES = {
    "dinov2": (Dinov2Model, Dinov2Config(**TRANSFORMER, image_size=32, patch_size=8), 16),
    "vit": (ViTModel, ViTConfig(**VISION), 16),
    "clip": (CLIPVisionModel, CLIPVisionConfig(**VISION), 16),
    "siglip": (SiglipVisionModel, SiglipVisionConfig(**VISION), 16),
    "convnext": (ConvNextModel, ConvNextConfig(hidden_sizes=[8, 24], depths=[1, 1], num_stages=2), 24),
    "resnet": (ResNetModel, ResNetConfig(embedding_size=8, hidden_sizes=[16, 40], depths=[1, 1]), 40),
}


def saved(model, folder):
    save(model, folder, ViTImageProcessor(size={"height": 32, "width": 32}))
    return str(folder)


@torch.no_grad()
def output(model):
    return model.eval()(pixel_values=PIXELS)


@torch.no_grad()
def embedding(model):
    return pooled_embedding(model.eval(), PIXELS)


@pytest.mark.parametrize("family", BACKBONES)
def test_a_backbone_loads_and_its_pooler_output_is_the_embedding(family, tmp_path):
    build, config, width = BACKBONES[family]
    model = build(config)
    loaded = load_backbone(saved(model, tmp_path))
    assert type(loaded.model) is build
    assert not loaded.model.training
    assert not loaded.new_head
    assert loaded.processor.size == {"height": 32, "width": 32}
    assert embedding(loaded.model).shape == (2, width)
    assert torch.equal(embedding(loaded.model), output(model).pooler_output.flatten(1))


@pytest.mark.parametrize(
    ("build", "config"),
    [
        (CLIPModel, CLIPConfig(vision_config=VISION, text_config=TEXT)),
        (SiglipModel, SiglipConfig(vision_config=VISION, text_config=TEXT)),
    ],
)
def test_of_a_checkpoint_for_images_and_text_the_vision_tower_is_taken(build, config, tmp_path):
    model = build(config)
    tower = load_backbone(saved(model, tmp_path / "whole"))
    assert torch.equal(embedding(tower.model), output(model.vision_model).pooler_output)
    again = load_backbone(saved(tower.model, tmp_path / "tower"))
    assert torch.equal(embedding(again.model), embedding(tower.model))


def test_a_timm_checkpoint_loads_without_its_classifier(tmp_path):
    normalisation = {"input_size": [3, 64, 64], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    config = TimmWrapperConfig(architecture="resnet18", num_labels=3, pretrained_cfg=normalisation)
    classifier = TimmWrapperForImageClassification(config).eval()
    classifier.save_pretrained(tmp_path)
    vectors = embedding(load_backbone(str(tmp_path)).model)
    assert vectors.shape == (2, 512)
    assert torch.allclose(classifier.timm_model.fc(vectors), output(classifier).logits, atol=1e-5)


def test_a_classifiers_checkpoint_lacks_the_pooling_layer_of_its_backbone(tmp_path):
    classifier = ViTForImageClassification(ViTConfig(**VISION))
    loaded = load_backbone(saved(classifier, tmp_path))
    assert loaded.new_head
    loaded.model.pooler = None
    assert torch.allclose(classifier.classifier(embedding(loaded.model)), output(classifier).logits, atol=1e-6)


def test_from_scratch_ignores_the_weights(tmp_path):
    name = saved(BACKBONES["resnet"][0](BACKBONES["resnet"][1]), tmp_path)
    trained, scratch = load_backbone(name), load_backbone(name, pretrained=False)
    assert scratch.new_head
    assert not torch.equal(embedding(trained.model), embedding(scratch.model))


def test_a_registered_architecture_without_a_classifier_is_its_backbone():
    built = build_registered("resnet18", None, width=0.125, image_size=32, auto_class="AutoModel")
    assert type(built.model) is ResNetModel
    assert embedding(built.model).shape == (2, 64)


def test_image_embeds_come_before_all_else():
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION, projection_dim=12))
    assert torch.equal(embedding(model), output(model).image_embeds)
    assert embedding(model).shape == (2, 12)


def test_without_a_pooler_the_class_token_then_the_mean_of_tokens_then_of_positions():
    with_class_token = ViTModel(ViTConfig(**VISION), add_pooling_layer=False)
    assert torch.equal(embedding(with_class_token), output(with_class_token).last_hidden_state[:, 0])
    patches_only = SiglipVisionModel(SiglipVisionConfig(**VISION, vision_use_head=False))
    assert torch.equal(embedding(patches_only), output(patches_only).last_hidden_state.mean(1))
    maps = PoolFormerModel(PoolFormerConfig(hidden_sizes=[8, 8, 8, 24], depths=[1, 1, 1, 1]))
    assert embedding(maps).shape == (2, 24)
    assert torch.equal(embedding(maps), output(maps).last_hidden_state.mean((2, 3)))


def test_the_projector_follows_the_embedding():
    model = BACKBONES["resnet"][0](BACKBONES["resnet"][1]).eval()
    projector = torch.nn.Linear(40, 5)
    with torch.no_grad():
        assert torch.equal(Embedder(model)(PIXELS), embedding(model))
        assert torch.equal(Embedder(model, projector)(PIXELS), projector(embedding(model)))


def test_what_is_no_vision_backbone_says_so(tmp_path):
    text = BertModel(BertConfig(**TRANSFORMER, intermediate_size=24, vocab_size=60))
    with pytest.raises(RunError, match="not a vision backbone: 'bert' takes 'input_ids'"):
        load_backbone(saved(text, tmp_path / "text"))
    name = saved(ViTModel(ViTConfig(**VISION)), tmp_path / "deeper")
    config = ViTConfig(**VISION | {"num_hidden_layers": 2})
    config.save_pretrained(name)
    with pytest.raises(RunError, match=r"not a vision backbone: its checkpoint lacks the weights of 'layers\.1"):
        load_backbone(name)
    with pytest.raises(UsageError, match=r"no model folder '\./nowhere'"):
        load_backbone("./nowhere")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared models are not beside this checkout")
def test_custom_code_without_a_backbone_says_so():
    name = str(SHARED / "resnet56-cifar10")
    with pytest.raises(UsageError, match="--trust-remote-code"):
        load_backbone(name)
    with pytest.raises(RunError, match="no backbone of its own: there is no AutoModel of the type 'cifar_resnet'"):
        load_backbone(name, trust_remote_code=True)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared models are not beside this checkout")
def test_a_real_classifier_gives_the_features_that_its_classifier_reads():
    name = str(SHARED / "mobilenet-v2-imagenet")
    vectors = embedding(load_backbone(name).model)
    classifier = load(name).model
    assert vectors.shape == (2, 1280)
    with torch.no_grad():
        assert torch.allclose(classifier.classifier(vectors), output(classifier).logits, atol=1e-4)


def test_a_backbone_where_a_classifier_is_wanted_names_the_task(tmp_path):
    name = saved(BACKBONES["dinov2"][0](BACKBONES["dinov2"][1]), tmp_path)
    with pytest.raises(RunError, match=r"lacks the weights of the classification head.*'task: features'"):
        load(name)
