"""How good embeddings are: for telling classes apart, and as copies of a teacher's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.nn import functional as F

from hf_compress.data import ImageData
from hf_compress.measure.quality import with_means
from hf_compress.models.embeddings import embed
from hf_compress.models.load import LoadedModel

NEIGHBOURS = 20
TEMPERATURE = 0.07


def feature_examiner(
    data: ImageData, teacher: LoadedModel | None = None, split: str = "test"
) -> Callable[[LoadedModel], dict[str, Any]]:
    """Return what measures backbones on one split, against one teacher.

    It gives `quality`, and `by_image`: for each metric one number an image. In `quality` are `knn_accuracy` where the
    images have labels, and `cosine_similarity` where the widths are equal. The neighbours are those of the backbone's
    own embeddings; the projector, where there is one, takes part in the similarity alone.

    Args:
        data: the training images are the gallery of the nearest-neighbour search.
        teacher: its embeddings are what the others should give; None leaves the similarity out.
        split: the images that are classified and compared.
    """
    images = data.splits[split]
    targets = embed(teacher, images, data.workers) if teacher else None

    def examine(loaded: LoadedModel) -> dict[str, Any]:
        queries = embed(loaded, images, data.workers)
        by_image = {}
        if any(label >= 0 for label in images.labels):
            gallery = embed(loaded, data.train, data.workers)
            told = knn_right(gallery, data.train.labels, queries, images.labels)
            by_image["knn_accuracy"] = told.astype(int)
        with torch.no_grad():
            answers = queries if loaded.projector is None else loaded.projector(queries)
        if targets is not None and answers.shape == targets.shape:
            by_image["cosine_similarity"] = cosine_similarities(answers, targets).numpy()
        return with_means(by_image)

    return examine


def cosine_similarity(first: Tensor, second: Tensor) -> float:
    """Return the mean cosine of the angle between corresponding rows, shapes (images, width)."""
    return float(cosine_similarities(first, second).mean())


def cosine_similarities(first: Tensor, second: Tensor) -> Tensor:
    """Return the cosine of the angle between corresponding rows, shapes (images, width), from -1 to 1."""
    return F.cosine_similarity(first.double(), second.double()).clamp(-1, 1)  # rounding goes beyond


def knn_right(gallery: Tensor, gallery_labels: list[int], queries: Tensor, query_labels: list[int]) -> np.ndarray:
    """Return for each labelled query whether a weighted nearest-neighbour classifier without training is right.

    The 20 nearest gallery images by cosine similarity s vote with the weight exp(s / 0.07): the protocol of DINO
    (Caron et al., 2021, sec. 3.2), from Wu et al. (2018), sec. 3.4. With fewer gallery images all of them vote.

    Args:
        gallery: embeddings of labelled images, shape (images, width).
        queries: embeddings of the images to classify.
        gallery_labels, query_labels: class indices; images with a negative label do not count.
    """
    gallery, gallery_labels = _labelled(gallery, gallery_labels)
    queries, query_labels = _labelled(queries, query_labels)
    classifier = KNeighborsClassifier(
        min(NEIGHBOURS, len(gallery)), metric="cosine", weights=lambda distance: np.exp((1 - distance) / TEMPERATURE)
    )
    return classifier.fit(gallery, gallery_labels).predict(queries) == query_labels


def _labelled(embeddings: Tensor, labels: list[int]) -> tuple[np.ndarray, np.ndarray]:
    counted = np.asarray(labels) >= 0
    return embeddings.numpy()[counted], np.asarray(labels)[counted]
