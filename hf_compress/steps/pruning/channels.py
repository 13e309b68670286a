"""Channel pruning: channels are removed from a model, which becomes smaller.

torch-pruning's dependency graph (Fang et al., 2023, "DepGraph") finds which layers must lose a channel together.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass

import torch
import torch_pruning as tp
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_compress.errors import RunError
from hf_compress.steps.pruning.config import CRITERIA, PruneConfig
from hf_compress.training import use_channels_last

logger = logging.getLogger(__name__)
ROOTS = (nn.Conv2d, nn.Linear)


class _Logits(nn.Module):
    """The dependency graph follows tensors, not transformers' output objects."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values=pixel_values).logits


@dataclass
class ChannelGroup:
    """Channels that are removed together.

    Attributes:
        name: layer whose output channels lead the group.
        width: number of channels.
        scores: importance of each, shape (width,).
    """

    name: str
    width: int
    scores: Tensor


class ChannelPruner:
    """Removes channels of one model and, with the same plan, of copies of it.

    Args:
        model: unpruned model; widths and amounts refer to it.
        image: one input, shape (1, 3, height, width).
        exclude: names of modules to leave alone.

    Attributes:
        protected: layers whose channels stay, with the reason.
    """

    def __init__(self, model: PreTrainedModel, image: Tensor, config: PruneConfig, exclude: set[str]):
        self.image = image
        self.config = config
        self.protected: dict[str, str] = {name: "excluded by the recipe" for name in exclude}
        self._protect_outputs(model)
        roots = [group.name for group in self.groups(model)]
        for name in self._failing(model, roots):
            self.protected[name] = "the model does not run without some of its channels"
        self.widths = {group.name: group.width for group in self.groups(model)}
        if not any(self._kept(width, 1 - config.floor) < width for width in self.widths.values()):
            raise RunError(
                f"nothing can be pruned: all {len(roots) or 'no'} groups of channels are protected, or narrower than "
                f"'round_to' {config.round_to} allows"
            )

    def groups(self, model: PreTrainedModel) -> list[ChannelGroup]:
        """Return the groups of `model` that may lose channels, with their importance."""
        graph, names = self._graph(model)
        return [
            ChannelGroup(names[root], len(group[0].idxs), self._scores(graph, group))
            for root, group in self._raw_groups(graph, model, names)
        ]

    def prune(self, model: PreTrainedModel, amount: float) -> None:
        """Remove the least important channels, in place, until the fraction `amount` of the unpruned model's is gone.

        Raises:
            RunError: the pruned model does not run.
        """
        plan = self._plan(self.groups(model), amount)
        self._remove(model, plan)
        if not self._runs(model):
            raise RunError(
                f"the model does not run after the removal of channels from {', '.join(plan)}: exclude them"
            )

    def sparsity(self, model: PreTrainedModel) -> float:
        """Return the fraction of the removable channels that is gone."""
        widths = [model.get_submodule(name).weight.shape[0] for name in self.widths]
        return 1 - sum(widths) / sum(self.widths.values())

    def _plan(self, groups: list[ChannelGroup], amount: float) -> dict[str, list[int]]:
        """Return the channels to remove from each group."""
        shares = {group.name: amount for group in groups}
        if self.config.scope == "global":
            shares = self._global_shares(groups, amount)
        plan = {}
        for group in groups:
            surplus = group.width - self._kept(self.widths[group.name], shares[group.name])
            if surplus > 0:
                plan[group.name] = torch.topk(group.scores, k=surplus, largest=False).indices.tolist()
        return plan

    def _global_shares(self, groups: list[ChannelGroup], amount: float) -> dict[str, float]:
        """Rank the channels of all groups by importance relative to their group's mean."""
        relative = [group.scores / group.scores.mean().clamp_min(1e-12) for group in groups]
        gone = sum(self.widths[group.name] - group.width for group in groups)
        wanted = round(amount * sum(self.widths.values())) - gone
        if wanted <= 0:
            return {group.name: 1 - group.width / self.widths[group.name] for group in groups}
        threshold = torch.cat(relative).kthvalue(wanted).values
        return {
            group.name: 1 - float((scores > threshold).sum()) / self.widths[group.name]
            for group, scores in zip(groups, relative, strict=True)
        }

    def _kept(self, width: int, share: float) -> int:
        """Return the channels of `width` that stay: the multiple of `round_to` next to it, never under the floor."""
        step = self.config.round_to
        least = max(1, self.config.floor * width)
        kept = max(step, round(width * (1 - share) / step) * step)
        while kept < least:
            kept += step
        return min(width, kept)

    def _graph(self, model: PreTrainedModel) -> tuple[tp.DependencyGraph, dict[nn.Module, str]]:
        model.eval()
        with torch.enable_grad():
            graph = tp.DependencyGraph().build_dependency(_Logits(model), self.image)
        return graph, {module: name for name, module in model.named_modules()}

    def _raw_groups(self, graph, model, names):
        """Yield (leading layer, torch-pruning group) for every group without a protected layer."""
        for group in graph.get_all_groups(root_module_types=list(ROOTS)):
            members = [
                names.get(dep.target.module)
                for dep, _ in group
                if graph.is_out_channel_pruning_fn(dep.handler) and isinstance(dep.target.module, ROOTS)
            ]
            if not any(name in self.protected for name in members):
                yield group[0].dep.target.module, group

    def _scores(self, graph, group) -> Tensor:
        """Return the mean importance of each channel over the filters that make it and the kernels that read it."""
        criterion = CRITERIA.get(self.config.importance)
        total = torch.zeros(len(group[0].idxs))
        counts = torch.zeros_like(total)
        for (dep, indices), item in zip(group, group.items, strict=True):
            module = dep.target.module
            if not isinstance(module, ROOTS):
                continue
            makes = graph.is_out_channel_pruning_fn(dep.handler)
            if not makes and getattr(module, "groups", 1) > 1:
                continue
            scores = criterion(module.weight.detach(), 0 if makes else 1, self.config.n)[indices]
            root_indices = torch.tensor(item.root_idxs if item.root_idxs is not None else indices)
            total.index_add_(0, root_indices, scores)
            counts.index_add_(0, root_indices, torch.ones_like(scores))
        return total / counts.clamp_min(1)

    def _protect_outputs(self, model: PreTrainedModel) -> None:
        """The last layer with one output a label gives the logits; grouped kernels stay whole."""
        labels = model.config.num_labels
        heads = [n for n, m in model.named_modules() if isinstance(m, ROOTS) and m.weight.shape[0] == labels]
        self.protected |= {name: "classifier" for name in heads[-1:]}
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d) and 1 < module.groups < module.in_channels:
                self.protected[name] = "grouped convolution"

    def _failing(self, model: PreTrainedModel, roots: list[str]) -> list[str]:
        """Return the groups without some of whose channels the model does not run: halve until they are found."""
        if not roots or self._survives(model, roots):
            return []
        if len(roots) == 1:
            return roots
        half = len(roots) // 2
        return self._failing(model, roots[:half]) + self._failing(model, roots[half:])

    def _survives(self, model: PreTrainedModel, roots: list[str]) -> bool:
        trial = copy.deepcopy(model)
        widths = {name: trial.get_submodule(name).weight.shape[0] for name in roots}
        try:
            self._remove(
                trial, {name: list(range(min(self.config.round_to, width // 2))) for name, width in widths.items()}
            )
        except (RuntimeError, IndexError, ValueError, AttributeError, AssertionError, KeyError) as error:
            logger.debug("channel removal failed: %s", error)
            return False
        return self._runs(trial)

    def _remove(self, model: PreTrainedModel, plan: dict[str, list[int]]) -> None:
        graph, names = self._graph(model)
        for root, group in list(self._raw_groups(graph, model, names)):
            channels = plan.get(names[root])
            if channels:
                graph.get_pruning_group(root, group[0].dep.handler, channels).prune()
        use_channels_last(model)

    def _runs(self, model: PreTrainedModel) -> bool:
        try:
            with torch.no_grad():
                model(pixel_values=self.image)
        except (RuntimeError, IndexError, ValueError) as error:
            logger.debug("forward failed after channel removal: %s", error)
            return False
        return True
