"""The migration page: every snippet runs, the old ones after their one changed line."""

import re
from pathlib import Path

import torch
from torch import nn

PAGE = Path(__file__).parents[2] / "docs" / "migration-neural-compressor.md"


class Layers(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.layer1 = nn.Linear(12, 32)
        self.layer2 = nn.Linear(32, 32)
        self.head = nn.Linear(32, 4)

    def forward(self, images):
        return self.head(self.layer2(self.layer1(images.flatten(1)).relu()).relu())


def test_every_snippet_runs_and_prunes_what_it_says():
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(snippets) == 8
    names = {
        "teacher": Layers(1),
        "criterion": nn.CrossEntropyLoss(),
        "loader": [(torch.randn(8, 3, 2, 2), torch.randint(4, (8,))) for _ in range(6)],
        "evaluate": lambda model: 1 - 0.15 * (model.layer1.weight == 0).float().mean().item(),
    }
    sparsity = []
    for snippet in snippets:
        names["model"] = Layers(0)
        names["optimizer"] = torch.optim.SGD(names["model"].parameters(), lr=0.05, momentum=0.9)
        exec(snippet.replace("from neural_compressor.training", "from hf_compress.adapters.neural_compressor"), names)
        sparsity.append(round((names["model"].layer1.weight == 0).float().mean().item(), 2))
    assert (sparsity[2], *sparsity[4:7]) == (0.8, 0.5, 0.5, 0.6)
    assert 0 < sparsity[3] < 1
    assert round((names["best"].layer1.weight == 0).float().mean().item(), 2) == 0.5
    assert type(names["smaller"].layer1).__name__ == "INCWeightOnlyLinear"
