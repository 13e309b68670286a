"""Image classification: one class an image."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from hf_compress.tasks.base import TOLERANCE, Metric, Shown, Task, register_task

if TYPE_CHECKING:
    from torch import Tensor


TOGETHER = 16  # images that are shown to a model at once


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

    def shown(self, loaded, items):
        import torch

        from hf_compress.data.images import preprocess

        found, names = [], loaded.label_names
        for start in range(0, len(items), TOGETHER):
            part = items[start : start + TOGETHER]
            with torch.inference_mode():
                pixels = preprocess(loaded.processor, [item["view"] for item in part])
                shares = loaded.model(pixel_values=pixels).logits.float().softmax(dim=-1)
            for item, share in zip(part, shares, strict=True):
                found.append(Shown(names[int(share.argmax())], names[item["label"]], float(share.max())))
        return found

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
