"""Image classification: one class an image."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hf_compress.tasks.base import TOLERANCE, Metric, Task, register_task
from hf_compress.tasks.looking import labelled
from hf_compress.tasks.sheets import FINAL, Panel, Sheet, short

if TYPE_CHECKING:
    from torch import Tensor

    from hf_compress.data import ImageSplit
    from hf_compress.models.load import LoadedModel


TOGETHER = 16  # images that are shown to a model at once
LOOKED_AT, COLUMNS = 32, 5


class Classification(Task):
    """The model gives a logit a class."""

    name = "classification"
    auto_class = "AutoModelForImageClassification"
    pipeline_tag = "image-classification"
    noun = "image classifier"
    usage = (
        "    probabilities = model(**inputs).logits.softmax(dim=-1)[0]",
        "for index in probabilities.argsort(descending=True)[:3].tolist():",
        '    print(f"{model.config.id2label[index]}: {probabilities[index]:.1%}")',
    )
    deciding = Metric("accuracy", "accuracy", share=True, hub_name="Accuracy", full_name="top-1 accuracy")
    metrics = (deciding, Metric("roc_auc", "ROC AUC", hub_name="ROC AUC"))
    ensembles = True
    selects = True
    mixes = True
    pictured = (
        "Test images, and what the final model says of them: right answers above, wrong ones below, the surest first"
    )

    def load(self, name, **options):
        from hf_compress.models.load import load

        return load(name, **options)

    def outputs(self, output):
        return {"logits": output.logits}

    def loss(self, output, batch):
        from torch.nn import functional as F

        from hf_compress.data.images import IGNORED_LABEL

        logits = output.logits.float()
        return F.cross_entropy(logits, _labels(batch, logits.shape[-1]), ignore_index=IGNORED_LABEL)

    def compare(self, loss, student, teacher, batch):
        return loss(student["logits"], teacher["logits"], _labels(batch, student["logits"].shape[-1]))

    def in_order(self, outputs, order):
        from hf_compress.checkpoint.labels import reordered

        return outputs | {"logits": reordered(outputs["logits"], order)}

    def quality(self, predictions):
        from hf_compress.measure.quality import quality

        return quality(predictions.outputs["logits"], predictions.labels)

    def decide(self, predictions):
        from hf_compress.measure.quality import accuracy

        return accuracy(predictions.outputs["logits"], predictions.labels)

    def in_detail(self, predictions):
        """Add `classes` and `reliability` where the logits are finite; see `measure.detail`."""
        from hf_compress.measure.detail import by_class, reliability
        from hf_compress.measure.quality import quality_by_image, with_means

        logits, labels = predictions.outputs["logits"], predictions.labels
        result: dict[str, Any] = with_means(quality_by_image(logits, labels))
        if result["quality"] and logits.isfinite().all():
            result["classes"] = by_class(logits, labels)
            result["reliability"] = reliability(logits, labels)
        return result

    def examples(self, models, images, by_image, by_teacher):
        """Show at most five images that are right and five that are wrong; 32 each, spread evenly, are looked at."""
        from hf_compress.data.images import evenly_spread

        known, whole = labelled(images), len(by_image) == len(images.labels)
        wrong = [index for index in known if whole and by_image[index] == 0]
        parts = (wrong, sorted(set(known) - set(wrong)))
        asked = sorted(part[place] for part in parts for place in evenly_spread(len(part), LOOKED_AT))
        rows = chosen(answers(models[FINAL], images, asked))
        return Sheet([[each.panel for each in row] for row in rows if row]) if any(rows) else None

    def as_targets(self, predictions):
        return predictions.outputs["logits"].argmax(dim=1).tolist()

    def difference(self, again, own, pictures):
        """Compare the labels that `pipeline("image-classification")` gives, and their probabilities."""
        import torch
        from torchvision.transforms.v2 import functional as F
        from transformers import pipeline

        from hf_compress.data.images import preprocess

        classify = pipeline(self.pipeline_tag, model=again.model, image_processor=again.processor, device="cpu")
        names = again.label_names
        for picture in pictures:
            with torch.inference_mode():
                logits = own.model(pixel_values=preprocess(own.processor, [picture])).logits
            wanted = _by_name(zip(names, logits.float().softmax(dim=-1)[0].tolist(), strict=True))
            answers = classify(F.to_pil_image(picture), top_k=len(names))
            found = _by_name((answer["label"], answer["score"]) for answer in answers)
            for name in wanted:
                if not abs(found[name] - wanted[name]) <= TOLERANCE:
                    return f"pipeline() gives '{name}' {found[name]:.3f} and not {wanted[name]:.3f}"
        return None


class Answered(NamedTuple):
    """What a model says of a picture, uint8 (height, width, 3), how sure it is, from 0 to 1, and what is true."""

    picture: np.ndarray
    said: str
    true: str
    share: float

    @property
    def right(self) -> bool:
        return self.said == self.true

    @property
    def panel(self) -> Panel:
        text = f"{short(self.said)} {self.share:.0%}" + ("" if self.right else f"\nis {short(self.true)}")
        return Panel(self.picture, text, wrong=not self.right)


def answers(loaded: LoadedModel, images: ImageSplit, indices: list[int]) -> list[Answered]:
    """Return what a model says of labelled images; those of which it says nothing finite are left out."""
    import torch

    from hf_compress.data.images import preprocess

    found, names = [], loaded.label_names
    for start in range(0, len(indices), TOGETHER):
        items = images.without_augmentation().__getitems__(indices[start : start + TOGETHER])
        with torch.inference_mode():
            pixels = preprocess(loaded.processor, [item["view"] for item in items])
            shares = loaded.model(pixel_values=pixels).logits.float().softmax(dim=-1)
        for item, share in zip(items, shares, strict=True):
            if share.isfinite().all():
                picture = item["view"].permute(1, 2, 0).numpy()
                said = names[int(share.argmax())]
                found.append(Answered(picture, said, names[item["label"]], float(share.max())))
    return found


def chosen(found: list[Answered]) -> tuple[list[Answered], list[Answered]]:
    """Return at most five that are right, of as many classes as there are, and the five that are most surely wrong."""
    right = [each for each in found if each.right]
    wrong = sorted((each for each in found if not each.right), key=lambda each: -each.share)
    first = list({each.true: each for each in reversed(right)}.values())[::-1]
    others = [each for each in right if all(each is not one for one in first)]
    return (first + others)[:COLUMNS], wrong[:COLUMNS]


def _labels(batch: dict[str, Any], classes: int) -> Tensor | None:
    """Return the labels of a batch, (batch,); of mixed pictures the share of each class, (batch, classes)."""
    from torch.nn import functional as F

    from hf_compress.data.images import IGNORED_LABEL

    if "shares" not in batch:
        return batch.get("labels")
    parts = ((batch["labels"], batch["shares"]), (batch["partner_labels"], 1 - batch["shares"]))
    return sum(
        F.one_hot(labels.clamp(min=0), classes) * (shares * (labels != IGNORED_LABEL)).unsqueeze(1)
        for labels, shares in parts
    )


def _by_name(scores) -> Counter[str]:
    """Return the sum of the scores of each name, which several classes may have."""
    total: Counter[str] = Counter()
    for name, score in scores:
        total[name] += score
    return total


CLASSIFICATION = register_task(Classification())
