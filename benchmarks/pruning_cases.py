"""The models and images of `pruning_peers.py`: each is read once, as the model's own processor makes it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as parquet
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor
from transformers import AutoImageProcessor

from hf_compress.data.images import evenly_spread
from hf_compress.models.load import load

IMAGENETTE = [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]
CALIBRATION, HELD_OUT = 256, 0.1
CHUNK = 250


@dataclass(frozen=True)
class Case:
    """A model, its images, and how all methods train it.

    Attributes:
        amounts: fractions of the MACs that go.
        test: name of the split that is tested on.
        rates: learning rates to choose from.
        zoom: the smallest side of a random crop, as a fraction of the image's.
        shift: by how much a crop may lie outside the image, likewise.
        round_to: pruned widths are multiples of this.
    """

    title: str
    model: str
    data: str
    test: str
    amounts: tuple[float, ...]
    optimizer: Callable[..., torch.optim.Optimizer]
    rates: tuple[float, ...]
    batch: int
    zoom: float = 1.0
    shift: float = 0.0
    round_to: int = 8


def sgd(parameters: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=1e-4, nesterov=True)


def adamw(parameters: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, rate, weight_decay=0.01)


CASES = {
    "mobilenet": Case(
        "MobileNetV2, Imagenette, 224 px",
        "mobilenet-v2-imagenet",
        "imagenette_224",
        "validation",
        (0.3, 0.4, 0.5, 0.6),
        adamw,
        (1e-3, 2e-4),
        64,
        zoom=0.7,
    ),
    "resnet56": Case(
        "ResNet-56, CIFAR-10",
        "resnet56-cifar10",
        "cifar10_jpeg",
        "test",
        (1 - 1 / 2.1, 1 - 1 / 2.6),
        sgd,
        (0.05, 0.02),
        128,
        shift=0.125,
        round_to=1,
    ),
    "dinov2": Case(
        "DINOv2-S/14 of ten blocks, Imagenette, 224 px",
        "dinov2-small-10-imagenette",
        "imagenette_224",
        "validation",
        (0.2, 0.3, 0.4),
        adamw,
        (2e-4, 5e-5),
        64,
        zoom=0.7,
    ),
}


@dataclass(frozen=True)
class Images:
    """Pixels, uint8 (images, 3, height, width), and class indices, int64 (images,)."""

    pixels: Tensor
    labels: Tensor

    def take(self, indices: Tensor | list[int]) -> Images:
        return Images(self.pixels[indices], self.labels[indices])

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Material:
    """What a job works on, on its device but for the model.

    Attributes:
        model: unpruned, on the CPU, in eval mode.
        image: one input of it, zeros.
        normalise: makes floats of uint8 pixels, as the model wants them.
        train, held_out: parts of the training images.
        calibration: some of `train`.
    """

    case: Case
    model: nn.Module
    image: Tensor
    processor: object
    normalise: Callable[[Tensor], Tensor]
    train: Images
    held_out: Images
    calibration: Images
    test: Images
    device: torch.device


def prepare(case: Case, shared: Path, out: Path, most: int | None) -> Path:
    """Decode the images of a case once, and return the file that holds them; `most` limits them for a quick try."""
    file = out / f"{case.model}-{most or 'all'}.safetensors"
    if not file.is_file():
        found = {}
        for split in ("train", case.test):
            (source,) = (shared / "data" / case.data / "data").glob(f"{split}-*.parquet")
            table = parquet.read_table(source)
            rows = evenly_spread(len(table), most or len(table))
            pictures = [table["image"][row].as_py()["bytes"] for row in rows]
            chunks = [pictures[start : start + CHUNK] for start in range(0, len(pictures), CHUNK)]
            with ProcessPoolExecutor(min(len(chunks), os.cpu_count() or 1)) as pool:
                folder = str(shared / "models" / case.model)
                found[f"{split}.pixels"] = torch.cat(list(pool.map(_decoded, [folder] * len(chunks), chunks)))
            found[f"{split}.labels"] = torch.tensor([table["label"][row].as_py() for row in rows])
        out.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        save_file(found, partial)
        partial.replace(file)
    return file


def _decoded(folder: str, pictures: list[bytes]) -> Tensor:
    torch.set_num_threads(1)
    processor = AutoImageProcessor.from_pretrained(folder)
    views = [pil_to_tensor(Image.open(io.BytesIO(picture)).convert("RGB")) for picture in pictures]
    return processor(views, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"]


def material(case: Case, shared: Path, out: Path, most: int | None, device: torch.device) -> Material:
    tensors = load_file(prepare(case, shared, out, most), device=str(device))
    images = {split: Images(tensors[f"{split}.pixels"], tensors[f"{split}.labels"]) for split in ("train", case.test)}
    order = torch.randperm(len(images["train"]), generator=torch.Generator().manual_seed(0)).to(device)
    held = round(HELD_OUT * len(order))
    train = images["train"].take(order[held:])
    loaded = load(str(shared / "models" / case.model), trust_remote_code=True)
    processor, model = loaded.processor, loaded.model.eval()
    if model.config.num_labels > len(IMAGENETTE):
        cut_head(model, IMAGENETTE)
    mean, deviation = (
        torch.tensor(values, device=device).view(3, 1, 1) for values in (processor.image_mean, processor.image_std)
    )
    normalise = lambda pixels: (pixels.float() / 255 - mean) / deviation  # noqa: E731
    processor.do_resize = processor.do_center_crop = False  # the images are already as it makes them
    return Material(
        case,
        model,
        torch.zeros(1, *train.pixels.shape[1:]),
        processor,
        normalise,
        train,
        images["train"].take(order[:held]),
        train.take(evenly_spread(len(train), CALIBRATION)),
        images[case.test],
        device,
    )


def cut_head(model: nn.Module, classes: list[int]) -> None:
    """Keep the logits of some classes alone."""
    head = nn.Linear(model.classifier.in_features, len(classes))
    head.weight.data, head.bias.data = model.classifier.weight.data[classes], model.classifier.bias.data[classes]
    model.classifier = head
    model.num_labels = model.config.num_labels = len(classes)
