"""Quality of embeddings: against the formula of the paper, written out, and against numbers worked out by hand."""

import math

import pytest
import torch
from torch.nn import functional as F

from hf_compress.measure.features import cosine_similarities, cosine_similarity, knn_right

GENERATOR = torch.Generator().manual_seed(0)


def written_out(gallery, gallery_labels, queries, query_labels, classes):
    """Wu et al. (2018), sec. 3.4: the class with the largest sum of exp(s / 0.07) over the 20 nearest."""
    similarity = F.normalize(queries) @ F.normalize(gallery).T
    nearest = similarity.topk(20)
    votes = torch.zeros(len(queries), classes)
    for row, (values, indices) in enumerate(zip(nearest.values, nearest.indices, strict=True)):
        for value, index in zip(values, indices, strict=True):
            votes[row, gallery_labels[index]] += math.exp(value / 0.07)
    return float((votes.argmax(1) == torch.tensor(query_labels)).float().mean())


def test_knn_accuracy_is_the_weighted_vote_of_the_paper():
    centres = torch.randn(4, 12, generator=GENERATOR)
    labels = torch.randint(0, 4, (160,), generator=GENERATOR)
    points = centres[labels] + 2 * torch.randn(160, 12, generator=GENERATOR)
    parts = points[:100], labels[:100].tolist(), points[100:], labels[100:].tolist()
    accuracy = knn_right(*parts).mean()
    assert accuracy == pytest.approx(written_out(*parts, classes=4))
    assert 0.3 < accuracy < 1


def test_one_near_neighbour_outvotes_two_far_ones():
    gallery = torch.tensor([[1.0, 0.1], [0.0, 1.0], [-0.1, 1.0]])
    assert knn_right(gallery, [0, 1, 1], torch.tensor([[1.0, 0.0]]), [0]).mean() == 1
    assert knn_right(gallery, [0, 1, 1], torch.tensor([[1.0, 0.0]]), [1]).mean() == 0


def test_images_without_a_label_neither_vote_nor_count():
    gallery = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert knn_right(gallery, [-100, 0, 1], queries, [0, 0, -100]).mean() == 0.5


def test_the_length_of_embeddings_does_not_matter():
    first = torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    second = torch.tensor([[1.0, 0.0], [5.0, 0.0], [-2.0, -2.0]])
    assert cosine_similarity(first, second) == pytest.approx((1 + 0 - 1) / 3)
    assert cosine_similarity(first, 7 * first) == pytest.approx(1)


@pytest.mark.parametrize("width", [384, 768, 2048])
def test_what_is_the_same_is_no_more_than_the_same(width):
    """Rounding alone gives cosines above 1, which a report refuses."""
    embeddings = torch.randn(64, width, generator=torch.Generator().manual_seed(0))
    similarity = cosine_similarities(embeddings, embeddings)
    assert similarity.max() <= 1 and similarity.min() > 1 - 1e-6
    assert cosine_similarities(embeddings, -embeddings).min() >= -1
