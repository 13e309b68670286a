"""What training leaves: the best epoch, whole, also for models that transformers stores under older names."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from hf_compress.training import own_names


@pytest.fixture
def vit():
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8
    )
    return ViTForImageClassification(config)


def test_the_best_epoch_comes_back_whole(vit, tmp_path):
    class Recording(Trainer):
        def evaluate(self, *args, **kwargs):
            states.append({name: tensor.clone() for name, tensor in self.model.state_dict().items()})
            metrics = super().evaluate(*args, **kwargs) | {"eval_score": -len(states)}
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            return metrics

    states = []
    rows = [{"pixel_values": torch.randn(3, 16, 16), "labels": number % 2} for number in range(4)]
    arguments = TrainingArguments(
        str(tmp_path),
        num_train_epochs=2,
        learning_rate=0.1,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="score",
        report_to="none",
        use_cpu=True,
    )
    with own_names(vit):
        Recording(vit, arguments, train_dataset=rows, eval_dataset=rows).train()
    first, last = states
    assert any(not torch.equal(first[name], last[name]) for name in first)
    assert all(torch.equal(tensor, first[name]) for name, tensor in vit.state_dict().items())


def test_after_training_the_model_is_stored_under_transformers_names(vit, tmp_path):
    vit.save_pretrained(tmp_path / "before")
    with own_names(vit):
        vit.save_pretrained(tmp_path / "within")
    vit.save_pretrained(tmp_path / "after")
    names = {name: set(load_file(tmp_path / name / "model.safetensors")) for name in ("before", "within", "after")}
    assert names["within"] == set(vit.state_dict())
    assert names["before"] == names["after"] != names["within"]
