"""A model's folder, reloaded in the way a user will: it must answer as the model did that was saved there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, Pipeline, pipeline

from hf_compress.data import ImageSplit
from hf_compress.data.images import preprocess, spread
from hf_compress.embeddings import pooled_embedding
from hf_compress.errors import RunError
from hf_compress.hub.load import LoadedModel
from hf_compress.labels import label_names

PICTURES = 4
RELOAD_TOLERANCE = 0.01
"""Of a probability, and of an embedding by its largest number: rounding and resizing differ by far less."""


def some_pictures(images: ImageSplit) -> list[Tensor]:
    """Return a few pictures of a split, uint8 (3, height, width)."""
    chosen = spread(images, PICTURES)
    return [chosen[index]["view"] for index in range(len(chosen))]


def check_reload(folder: Path, own: LoadedModel, pictures: list[Tensor], labels: list[str] | None) -> None:
    """Compare what `pipeline("image-classification")`, or `AutoModel`, makes of a folder with the model itself.

    Args:
        own: the model that was saved in the folder.
        pictures: uint8 (3, height, width).
        labels: class names in the order of the logits; None for a backbone.

    Raises:
        RunError: labels, answers or embeddings differ, or the folder does not load.
    """
    trust = {"trust_remote_code": own.model.is_custom_code()}  # it ran already, with the user's consent
    try:
        kind = AutoModel if labels is None else AutoModelForImageClassification
        model = kind.from_pretrained(folder, **trust).eval()
        processor = AutoImageProcessor.from_pretrained(folder, **trust)
    except Exception as error:
        raise _differs(folder, f"{type(error).__name__}: {' '.join(str(error).split())}") from error
    if labels is None:
        _compare_embeddings(folder, LoadedModel(model, processor, str(folder)), own, pictures)
    else:
        classify = pipeline("image-classification", model=model, image_processor=processor, device="cpu")
        _compare_labels(folder, label_names(model.config), labels)
        _compare_answers(folder, classify, own, pictures)


def _compare_labels(folder: Path, names: list[str], labels: list[str]) -> None:
    for number, (name, label) in enumerate(zip(names, labels, strict=False)):
        if name != label:
            raise _differs(folder, f"class {number} is '{name}' and not '{label}'")
    if len(names) != len(labels):
        raise _differs(folder, f"it has {len(names)} labels and not {len(labels)}")


def _compare_answers(folder: Path, classify: Pipeline, own: LoadedModel, pictures: list[Tensor]) -> None:
    names = label_names(classify.model.config)
    for picture in pictures:
        with torch.inference_mode():
            logits = own.model(pixel_values=preprocess(own.processor, [picture])).logits
        wanted = _by_name(zip(names, logits.float().softmax(dim=-1)[0].tolist(), strict=True))
        answers = classify(F.to_pil_image(picture), top_k=len(names))
        found = _by_name((answer["label"], answer["score"]) for answer in answers)
        for name in wanted:
            if not abs(found[name] - wanted[name]) <= RELOAD_TOLERANCE:
                raise _differs(folder, f"pipeline() gives '{name}' {found[name]:.3f} and not {wanted[name]:.3f}")


def _compare_embeddings(folder: Path, again: LoadedModel, own: LoadedModel, pictures: list[Tensor]) -> None:
    for picture in pictures:
        with torch.inference_mode():
            wanted, found = (
                pooled_embedding(loaded.model, preprocess(loaded.processor, [picture])) for loaded in (own, again)
            )
        if wanted.shape != found.shape or not (found - wanted).abs().max() <= RELOAD_TOLERANCE * wanted.abs().max():
            raise _differs(folder, "its embeddings are others")


def _by_name(scores) -> Counter[str]:
    """Return the sum of the scores of each name, which several classes may have."""
    total: Counter[str] = Counter()
    for name, score in scores:
        total[name] += score
    return total


def _differs(folder: Path, difference: str) -> RunError:
    return RunError(f"the model that was saved in '{folder}' does not reload as it was: {difference}")
