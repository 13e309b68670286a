"""The migration page: every snippet of today's vocabulary runs, in the order of the page."""

import re
from pathlib import Path

import torch
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification

PAGE = Path(__file__).parents[2] / "docs" / "migration-neural-compressor.md"


def classifier(seed, *widths):
    torch.manual_seed(seed)
    config = ResNetConfig(embedding_size=16, hidden_sizes=widths, depths=[1, 1], layer_type="basic", num_labels=4)
    return ResNetForImageClassification(config)


def zeros(model, part="resnet.encoder"):
    weights = [
        module.weight for name, module in model.named_modules()
        if name.startswith(part) and isinstance(module, nn.Conv2d | nn.Linear)
    ]  # fmt: skip
    return round(sum((weight == 0).sum().item() for weight in weights) / sum(w.numel() for w in weights), 2)


def test_every_snippet_runs_and_does_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    old, new = [], []
    for before, snippet in re.findall(r"([^\n]*)\n\n```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL):
        (old if before.startswith("Until 3.7.1:") else new).append(snippet)
    assert (len(old), len(new)) == (6, 9)
    for snippet in old:
        compile(snippet, "an old snippet", "exec")
    names = {
        "torch": torch,
        "teacher": classifier(1, 16, 48),
        "criterion": nn.CrossEntropyLoss(),
        "loader": [(torch.randn(8, 3, 32, 32), torch.randint(4, (8,))) for _ in range(3)],
        "evaluate": lambda model: 1 - 0.15 * zeros(model),
    }
    models = []
    for snippet in new:
        names["model"] = classifier(0, 16, 32)
        names["optimizer"] = torch.optim.SGD(names["model"].parameters(), lr=0.05, momentum=0.9)
        exec(snippet, names)
        models.append(names["model"])
    pruned, by_layer, distilled, by_layers, _, _, for_int8, smaller, _ = models
    assert [zeros(model) for model in models] == [0.5, 0.8, 0, 0, 0.6, 0, 0, 0, 0]
    assert zeros(by_layer, "classifier") == 0.2
    assert not torch.equal(distilled.classifier[1].weight, by_layers.classifier[1].weight)
    assert by_layers.state_dict().keys() == classifier(0, 16, 32).state_dict().keys()
    assert zeros(names["best"]) == 0.5
    assert not for_int8._forward_pre_hooks
    assert not torch.equal(for_int8.classifier[1].weight, classifier(0, 16, 32).classifier[1].weight)
    assert smaller.num_parameters() < 0.6 * pruned.num_parameters()
    images = names["loader"][0][0]
    with torch.no_grad():
        wanted, exact, got = (names[name](images).logits for name in ("pruned", "quantized", "again"))
    assert names["pruned"].num_parameters() == smaller.num_parameters()
    assert torch.equal(got, exact)
    assert 0 < (got - wanted).norm() / wanted.norm() < 0.1
