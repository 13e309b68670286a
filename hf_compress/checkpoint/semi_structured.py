"""2:4 sparse weights in memory, in the form that sparse tensor cores of NVIDIA GPUs multiply."""

import torch
from torch import Tensor, nn

from hf_compress.ground.errors import RunError

CAPABILITY = (8, 0)


def to_semi_structured(model: nn.Module) -> dict[str, str]:
    """Replace the 2:4 sparse weights of the model's linear layers by PyTorch's semi-structured tensors, in place.

    For inference on a GPU of compute capability 8.0 or higher (Ampere), which takes float16 and bfloat16 weights: such
    a model neither trains nor saves.

    Returns:
        The linear layers that stay dense, with the reason.

    Raises:
        RunError: there is no such GPU, the model is not on it, or no layer can be converted.
    """
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < CAPABILITY:
        raise RunError(
            "2:4 sparse weights need an NVIDIA GPU of compute capability 8.0 or higher: keep the model dense"
        )
    dense: dict[str, str] = {}
    converted = 0
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        if not is_two_of_four(module.weight):
            dense[name] = "its weights are not 2:4 sparse"
            continue
        try:
            sparse = torch.sparse.to_sparse_semi_structured(module.weight.detach())
        except RuntimeError as error:
            dense[name] = str(error)
            continue
        module.weight = nn.Parameter(sparse, requires_grad=False)
        converted += 1
    if not converted:
        reasons = "; ".join(f"'{name}': {reason}" for name, reason in list(dense.items())[:2])
        raise RunError(f"no linear layer can be converted to 2:4 sparse weights ({reasons or 'the model has none'})")
    return dense


def is_two_of_four(weight: Tensor) -> bool:
    """Return whether at most two of each four neighbours in a row are other than zero; weight of shape (out, in)."""
    return weight.shape[1] % 4 == 0 and bool(((weight.reshape(-1, 4) != 0).sum(dim=1) <= 2).all())
