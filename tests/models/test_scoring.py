"""Metrics beside scikit-learn's, and losses that add up over shards."""

from __future__ import annotations

import pytest
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from dwindle.errors import UsageError
from dwindle.models.scoring import IGNORED, balanced, chosen, class_loss, class_metric, confusion, label_metric

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@pytest.mark.slow
@given(PAIRS)
def test_metrics_of_classes_are_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    labels, answers = ([pair[side] for pair in pairs] for side in (0, 1))
    counts = confusion(torch.tensor(answers), torch.tensor(labels), 4)
    there = sorted({*labels})
    recalls = sklearn.metrics.recall_score(labels, answers, labels=there, average="macro", zero_division=0)
    either = sorted({*labels, *answers})
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(labels, answers),
        "balanced-accuracy": recalls,
        "f1": sklearn.metrics.f1_score(labels, answers, labels=either, average="macro", zero_division=0),
        "mean-iou": sklearn.metrics.jaccard_score(labels, answers, labels=either, average="macro", zero_division=0),
    }
    for name, value in expected.items():
        assert class_metric(name, counts) == pytest.approx(100 * value), name


def test_pixels_that_are_left_out_do_not_count() -> None:
    labels = torch.tensor([[0, 1], [IGNORED, 1]])
    counts = confusion(torch.tensor([[0, 0], [1, 1]]), labels, 2)
    assert counts.tolist() == [[1, 0], [1, 1]]


def test_metrics_of_labels_are_scikit_learns_without_labels_that_nobody_has() -> None:
    torch.manual_seed(0)
    scores, labels = torch.randn(50, 4), (torch.rand(50, 4) > 0.7).float()
    labels[:, 2] = 0
    has = [0, 1, 3]
    f1 = sklearn.metrics.f1_score(labels[:, has], scores[:, has] > 0, average="macro")
    precision = sklearn.metrics.average_precision_score(labels[:, has], scores[:, has], average="macro")
    assert label_metric("f1", scores, labels) == pytest.approx(100 * f1)
    assert label_metric("mean-average-precision", scores, labels) == pytest.approx(100 * precision)


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 2.0, 1.0])])
def test_the_losses_of_shards_add_up_to_that_of_the_batch(weights: torch.Tensor | None) -> None:
    torch.manual_seed(0)
    scores, labels = torch.randn(7, 3), torch.randint(3, (7,))
    whole = class_loss(scores, labels, 7, 0.1, weights)
    parts = [class_loss(scores[part], labels[part], 7, 0.1, weights) for part in (slice(4), slice(4, 7))]
    torch.testing.assert_close(sum(parts), whole)
    if weights is None:
        torch.testing.assert_close(whole, functional.cross_entropy(scores, labels, label_smoothing=0.1))


def test_balanced_weights_let_classes_count_alike() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    weights = balanced(labels, 2)
    assert weights[0] * 90 == pytest.approx(float(weights[1] * 10))
    assert float(weights[labels].mean()) == pytest.approx(1)


def test_a_metric_that_the_task_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        chosen("f2", "accuracy", ("accuracy", "f1"))
    assert (caught.value.code, caught.value.option) == ("unknown-name", "metric")
