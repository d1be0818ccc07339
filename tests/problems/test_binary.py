"""Saliency and edges: the balanced loss, and both metrics, against values computed by hand."""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from libmtl_recon.problems.dense.binary import BalancedLoss, EdgeMetric, SaliencyMetric


def maps(*images: list[float]) -> Tensor:
    """Images of one row: [B, 1, 1, W], float64."""
    return torch.tensor(images, dtype=torch.float64)[:, None, None]


def logits(*probabilities: list[float]) -> Tensor:
    return maps(*probabilities).logit()


def entropy(probability: float, label: int) -> float:
    return -math.log(probability if label else 1 - probability)


def test_both_classes_weigh_the_same_in_all() -> None:
    label = maps([1, 0, 0, 255], [0, 255, 255, 255])
    pred = logits([0.9, 0.2, 0.3, 0.5], [0.6, 0.1, 0.1, 0.1])
    # Of four pixels three are zeros: a one weighs 3/4, a zero 1/4.
    zeros = entropy(0.2, 0) + entropy(0.3, 0) + entropy(0.6, 0)
    expected = (0.75 * entropy(0.9, 1) + 0.25 * zeros) / 4
    assert BalancedLoss().compute_loss(pred, label).item() == pytest.approx(expected, rel=1e-12)
    fixed = (0.95 * entropy(0.9, 1) + 0.05 * zeros) / 4
    assert BalancedLoss(0.95).compute_loss(pred, label).item() == pytest.approx(fixed, rel=1e-12)


@pytest.mark.parametrize("weight", [None, 0.95])
@pytest.mark.parametrize("value", [0.0, 1.0, 255.0])
def test_labels_of_one_value_have_a_finite_loss(value: float, weight: float | None) -> None:
    pred = logits([0.2, 0.7]).requires_grad_()
    loss = BalancedLoss(weight).compute_loss(pred, torch.full_like(pred, value))
    share = {0.0: 0.0 if weight is None else 0.05, 1.0: 0.0 if weight is None else 0.95}
    each = [entropy(p, int(value == 1)) for p in (0.2, 0.7)]
    assert loss.item() == pytest.approx(share.get(value, 0.0) * sum(each) / 2)
    loss.backward()
    assert pred.grad.isfinite().all()
    assert bool(pred.grad.any()) == (loss.item() > 0)


def test_large_logits_do_not_overflow() -> None:
    pred = torch.tensor([[[[1e4, -1e4]]]], requires_grad=True)
    loss = BalancedLoss().compute_loss(pred, torch.tensor([[[[0.0, 1.0]]]]))
    assert loss.item() == pytest.approx(1e4 / 2)


def test_saliency_is_the_best_mean_over_images() -> None:
    metric = SaliencyMetric()
    # At 0.5: 1/2, and 1/1 = 1; at 0.85: 1/1, and 0/1.
    metric.update_fun(logits([0.9, 0.8, 0.1, 0.99]), maps([1, 0, 0, 255]))
    metric.update_fun(logits([0.6, 0.1, 0.1, 0.1]), maps([1, 0, 0, 0]))
    assert metric.score_fun() == [0.75]
    metric.reinit()
    metric.update_fun(logits([0.9, 0.8, 0.1]), maps([1, 0, 0]))
    assert metric.score_fun() == [1.0]


def test_an_empty_mask_that_is_predicted_counts_as_one_and_void_not_at_all() -> None:
    metric = SaliencyMetric()
    assert math.isnan(metric.score_fun()[0])
    metric.update_fun(logits([0.9, 0.9]), maps([255, 255]))
    assert math.isnan(metric.score_fun()[0])
    metric.update_fun(logits([0.1, 0.1], [0.99, 0.99]), maps([0, 0], [0, 255]))
    assert metric.score_fun() == [0.5]


def test_edges_of_all_images_are_counted_together() -> None:
    metric = EdgeMetric()
    metric.update_fun(logits([0.9, 0.6, 0.4, 0.9]), maps([1, 0, 1, 255]))
    metric.update_fun(logits([0.7, 0.2, 0.1, 0.1]), maps([0, 0, 0, 0]))
    # Above 0.7: one of one right, of two. From 0.2 to 0.4: two right of four.
    assert metric.score_fun() == [pytest.approx(2 * 2 / (4 + 2))]
    metric.reinit()
    metric.update_fun(logits([0.9, 0.6]), maps([1, 0]))
    assert metric.score_fun() == [1.0]


@pytest.mark.parametrize("label", [[0.0, 0.0], [255.0, 255.0]])
def test_without_an_edge_there_is_no_score(label: list[float]) -> None:
    metric = EdgeMetric()
    metric.update_fun(logits([0.9, 0.1]), maps(label))
    assert math.isnan(metric.score_fun()[0])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0.001, 0.999, allow_subnormal=False), st.sampled_from([0.0, 1.0, 255.0])
        ),
        min_size=2,
        max_size=24,
    )
)
def test_both_are_those_of_a_loop_over_thresholds(pixels: list[tuple[float, float]]) -> None:
    values, label = (np.array(column) for column in zip(*pixels, strict=True))
    kept = label != 255
    ones = label[kept] == 1
    pred = logits(values.tolist())
    found = pred.flatten().sigmoid().numpy()[kept]
    jaccards, scores = [], []
    for threshold in np.linspace(0.2, 0.9, 15):
        above = found > threshold
        union = (above | ones).sum()
        jaccards.append((above & ones).sum() / union if union else 1.0)
    for threshold in np.linspace(0.01, 0.99, 99):
        above = found > threshold
        scores.append(2 * (above & ones).sum() / max(1, above.sum() + ones.sum()))
    saliency, edge = SaliencyMetric(), EdgeMetric()
    for metric in (saliency, edge):
        metric.update_fun(pred, maps(label.tolist()))
    expected = [max(jaccards) if kept.any() else math.nan]
    assert saliency.score_fun() == pytest.approx(expected, nan_ok=True)
    assert edge.score_fun() == pytest.approx([max(scores) if ones.any() else math.nan], nan_ok=True)
