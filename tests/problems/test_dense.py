"""Losses and metrics of dense tasks, against values computed by hand, pixel by pixel."""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from libmtl_recon.errors import ReconError
from libmtl_recon.problems.dense import metrics as dense_metrics
from libmtl_recon.problems.dense.losses import DepthLoss, NormalLoss, SegmentationLoss
from libmtl_recon.problems.dense.metrics import DepthMetric, NormalMetric, SegmentationMetric
from libmtl_recon.problems.dense.tasks import depth, normal, segmentation
from libmtl_recon.problems.dense.trainer import resized

NAN, INF = math.nan, math.inf


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of_pixels(*pixels: list[float]) -> Tensor:
    """``[1, C, 1, N]`` of N pixels."""
    return torch.tensor(pixels, dtype=torch.float64).T[None, :, None]


# Losses.


def log_softmax(scores: list[float], chosen: int) -> float:
    return scores[chosen] - math.log(sum(math.exp(score) for score in scores))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float64])
def test_cross_entropy_is_the_mean_over_pixels_that_are_not_void(dtype: torch.dtype):
    pred = of_pixels([1.0, 2.0], [0.5, -1.0], [3.0, 3.0], [0.0, 9.0])
    gt = torch.tensor([[[1, 0, -1, 255]]], dtype=dtype)
    expected = -(log_softmax([1.0, 2.0], 1) + log_softmax([0.5, -1.0], 0)) / 2
    for label in (gt, gt[:, None]):
        found = SegmentationLoss().compute_loss(pred, label)
        assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-13, atol=0)


def test_a_class_that_is_nan_is_void():
    pred = of_pixels([1.0, 2.0], [0.5, -1.0])
    gt = torch.tensor([[[NAN, 0.0]]])
    found = SegmentationLoss().compute_loss(pred, gt).item()
    assert found == pytest.approx(-log_softmax([0.5, -1.0], 0), rel=1e-13)


def test_what_is_void_can_be_chosen():
    pred, gt = of_pixels([1.0, 2.0], [0.5, -1.0]), torch.tensor([[[1, 0]]])
    found = SegmentationLoss(ignore=(0,)).compute_loss(pred, gt)
    assert found.item() == pytest.approx(-log_softmax([1.0, 2.0], 1), rel=1e-13)
    metric = SegmentationMetric(2, ignore=(0,))
    metric.update_fun(pred, gt)
    assert metric.score_fun() == [1.0, 1.0]


def test_a_class_beyond_the_last_is_refused():
    pred = torch.zeros(1, 7, 1, 2)
    for use in (SegmentationLoss().compute_loss, SegmentationMetric(7).update_fun):
        with pytest.raises(ReconError, match=r"classes from 0 to 18, but .* 7 classes, 0 to 6"):
            use(pred, torch.tensor([[[18, -1]]]))


def test_a_label_of_another_size_is_refused():
    with pytest.raises(ReconError, match=r"must be \[1, 2, 3\], .*but it is \[1, 3, 2\]"):
        SegmentationLoss().compute_loss(torch.zeros(1, 7, 2, 3), torch.zeros(1, 3, 2))


def test_depth_loss_is_the_mean_absolute_error_of_measured_pixels():
    pred = of_pixels([1.0], [2.0], [5.0], [7.0], [-1.0])
    gt = of_pixels([3.0], [0.0], [4.5], [NAN], [INF])
    assert DepthLoss().compute_loss(pred, gt).item() == (2.0 + 0.5) / 2


def test_normal_loss_is_one_minus_the_cosine_whatever_the_lengths_are():
    pred = of_pixels([2.0, 0.0, 0.0], [0.0, 3.0, 4.0], [1.0, 1.0, 1.0], [1.0, 0.0, 0.0])
    gt = of_pixels([-5.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, NAN, 0.0])
    found = NormalLoss().compute_loss(pred, gt).item()
    assert found == pytest.approx(((1 + 1) + (1 - 0.8)) / 2, rel=1e-13)


def test_a_normal_whose_entries_add_up_to_zero_counts():
    gt = of_pixels([1.0, -1.0, 0.0])
    assert NormalLoss().compute_loss(-gt, gt).item() == pytest.approx(2.0, rel=1e-13)


VOIDS = [
    (SegmentationLoss(), 4, torch.full((2, 3, 5), -1)),
    (SegmentationLoss(), 4, torch.full((2, 3, 5), 255.0)),
    (DepthLoss(), 1, torch.zeros(2, 1, 3, 5)),
    (DepthLoss(), 1, torch.full((2, 1, 3, 5), NAN)),
    (NormalLoss(), 3, torch.zeros(2, 3, 3, 5)),
    (NormalLoss(), 3, torch.full((2, 3, 3, 5), NAN)),
]


@pytest.mark.parametrize(("loss", "channels", "gt"), VOIDS)
def test_a_batch_without_a_labelled_pixel_has_loss_and_gradient_zero(loss, channels, gt):
    for size in (2, 0):  # samples
        pred = randn(size, channels, 3, 5).requires_grad_()
        found = loss.compute_loss(pred, gt[:size])
        found.backward()
        assert found.item() == 0
        assert torch.equal(pred.grad, torch.zeros_like(pred))


@pytest.mark.parametrize(("loss", "channels", "void"), VOIDS)
def test_gradients_are_finite_and_void_pixels_have_none(loss, channels, void):
    gt = void.clone()
    labelled = torch.zeros(2, 3, 5, dtype=torch.bool)
    labelled[0, 1, 2] = labelled[1, 0, :] = True
    (gt if gt.ndim == 3 else gt.movedim(1, -1))[labelled] = 2
    pred = randn(2, channels, 3, 5).requires_grad_()
    loss.compute_loss(pred, gt).backward()
    reached = (pred.grad != 0).any(1)
    assert torch.equal(reached, labelled)
    assert torch.isfinite(pred.grad).all()


def test_losses_agree_with_those_of_a_loop_over_pixels():
    pred, gt = randn(2, 3, 4, 5), randn(2, 3, 4, 5, seed=1)
    gt[:, :, ::2, ::3] = 0
    cosines = []
    for b, y, x in np.ndindex(2, 4, 5):
        one, other = pred[b, :, y, x].tolist(), gt[b, :, y, x].tolist()
        if any(other):
            product = sum(p * g for p, g in zip(one, other, strict=True))
            cosines.append(product / math.hypot(*one) / math.hypot(*other))
    found = NormalLoss().compute_loss(pred, gt).item()
    assert found == pytest.approx(1 - statistics.fmean(cosines), rel=1e-12)


# Metrics.


def test_iou_is_of_one_confusion_matrix_and_leaves_out_classes_that_do_not_occur():
    # Labels 0 0 1 1 | 0 3 -1 255, predictions 0 1 1 1 | 0 1 2 2 of 5 classes. Intersection over
    # union: class 0 has 2 of 3, class 1 has 2 of 4, class 3 has 0 of 1; 2 and 4 do not occur.
    metric = SegmentationMetric(5)
    for labels, predicted in (([0, 0, 1, 1], [0, 1, 1, 1]), ([0, 3, -1, 255], [0, 1, 2, 2])):
        scores = torch.nn.functional.one_hot(torch.tensor(predicted), 5).T[None, :, None]
        metric.update_fun(scores.double(), torch.tensor(labels)[None, None])
    assert metric.score_fun() == pytest.approx([(2 / 3 + 2 / 4 + 0) / 3, 4 / 6], rel=1e-13)
    metric.reinit()
    assert all(map(math.isnan, metric.score_fun()))


def test_a_class_that_is_only_predicted_counts_with_zero():
    metric = SegmentationMetric(3)
    metric.update_fun(of_pixels([1.0, 0, 0], [0, 0, 1.0]), torch.tensor([[[0, 0]]]))
    assert metric.score_fun() == [(1 / 2 + 0) / 2, 1 / 2]


def test_depth_errors_are_over_all_measured_pixels_of_the_data():
    metric = DepthMetric()
    metric.update_fun(of_pixels([1.0], [2.0], [9.0]), of_pixels([2.0], [4.0], [8.0]))
    metric.update_fun(of_pixels([1.0], [2.0], [9.0]), of_pixels([0.0], [5.0], [NAN]))
    absolute = (1 + 2 + 1 + 3) / 4
    relative = (1 / 2 + 2 / 4 + 1 / 8 + 3 / 5) / 4
    assert metric.score_fun() == pytest.approx([absolute, relative], rel=1e-13)


def test_the_relative_error_of_a_negative_value_is_positive():
    metric = DepthMetric()
    metric.update_fun(of_pixels([1.0]), of_pixels([-4.0]))
    assert metric.score_fun() == [5, 5 / 4]


def at(degrees: float) -> list[float]:
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees)), 0.0]


def test_angles_are_over_all_pixels_with_a_normal():
    metric = NormalMetric()
    first, second = [0.0, 5.0, 20.0, 25.0], [40.0, 170.0]
    metric.update_fun(of_pixels(*map(at, first)), of_pixels(*[[2.0, 0.0, 0.0]] * 4))
    labels = of_pixels([1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [NAN, 1.0, 0.0])
    metric.update_fun(of_pixels(*map(at, second), [1.0, 1.0, 1.0], at(3)), labels)
    expected = [260 / 6, 22.5, 2 / 6, 3 / 6, 4 / 6]
    assert metric.score_fun() == pytest.approx(expected, rel=1e-12)


def test_an_angle_that_is_a_threshold_is_not_below_it():
    found = dense_metrics.Angles()
    found.add(torch.tensor([11.25, 22.5, 30.0], dtype=torch.float64))
    assert found.shares() == [0, 1 / 3, 2 / 3]


def test_an_odd_number_of_angles_has_one_in_the_middle():
    metric = NormalMetric()
    metric.update_fun(of_pixels(at(80), at(10), at(30)), of_pixels(*[[1.0, 0.0, 0.0]] * 3))
    assert metric.score_fun()[1] == pytest.approx(30, rel=1e-12)


@pytest.mark.parametrize("degrees", [0.0, 1e-3, 0.01, 90.0, 179.99, 180.0])
def test_small_angles_are_measured_in_float32_as_well(degrees: float):
    pred = of_pixels(at(degrees)).float()
    found = dense_metrics.angles(pred[0, :, 0].T, torch.tensor([[1.0, 0.0, 0.0]]))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(degrees, rel=1e-5, abs=1e-5)


def test_a_prediction_of_length_zero_is_at_a_right_angle_to_all():
    metric = NormalMetric()
    metric.update_fun(of_pixels([0.0, 0.0, 0.0]), of_pixels([0.0, 1.0, 0.0]))
    assert metric.score_fun() == [90, 90, 0, 0, 0]


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_lengths_do_not_matter(scale: float):
    metric = NormalMetric()
    metric.update_fun((of_pixels(at(20)) * scale).float(), of_pixels([1.0, 0.0, 0.0]).float())
    assert metric.score_fun()[:2] == pytest.approx([20, 20], rel=1e-5)


def test_a_prediction_that_is_nan_shows():
    metric = NormalMetric()
    metric.update_fun(of_pixels([NAN, 0.0, 0.0], at(5)), of_pixels(*[[1.0, 0.0, 0.0]] * 2))
    mean, median, *shares = metric.score_fun()
    assert math.isnan(mean)
    assert math.isnan(median)
    assert shares == [0.5, 0.5, 0.5]
    other = DepthMetric()
    other.update_fun(of_pixels([NAN]), of_pixels([1.0]))
    assert all(map(math.isnan, other.score_fun()))


@given(st.lists(st.floats(0, 180), min_size=1, max_size=60), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_statistics_of_angles_are_those_of_a_list(values: list[float], parts: int):
    found = dense_metrics.Angles()
    for part in range(parts):
        found.add(torch.tensor(values[part::parts], dtype=torch.float64))
    assert found.mean() == pytest.approx(statistics.fmean(values), rel=1e-12, abs=1e-12)
    assert found.median() == pytest.approx(statistics.median(values), abs=1e-4)
    below = [sum(value < limit for value in values) / len(values) for limit in (11.25, 22.5, 30)]
    assert found.shares() == pytest.approx(below, rel=1e-13)


def test_the_median_is_exact_where_no_other_angle_is_near():
    values = [0.5, 3.25, 17.125, 17.126, 90.0, 179.5]
    found = dense_metrics.Angles()
    found.add(torch.tensor(values, dtype=torch.float64))
    assert found.median() == statistics.median(values)


@pytest.mark.parametrize(
    ("metric", "channels", "gt"),
    [
        (SegmentationMetric(4), 4, torch.full((2, 3, 5), -1)),
        (DepthMetric(), 1, torch.full((2, 1, 3, 5), NAN)),
        (NormalMetric(), 3, torch.zeros(2, 3, 3, 5)),
    ],
)
def test_data_without_a_labelled_pixel_have_no_score(metric, channels, gt):
    metric.reinit()
    number = {1: 2, 3: 5, 4: 2}[channels]
    for size in (2, 0):
        metric.update_fun(randn(size, channels, 3, 5), gt[:size])
        found = metric.score_fun()
        assert len(found) == number
        assert all(map(math.isnan, found))


def test_what_is_kept_does_not_grow_with_the_data():
    metric = NormalMetric()
    kept = metric.angles.__dict__.copy()
    for seed in range(3):
        metric.update_fun(randn(1, 3, 20, 20, seed=seed), randn(1, 3, 20, 20, seed=9))
    sizes = {name: np.size(value) for name, value in metric.angles.__dict__.items()}
    assert sizes == {name: np.size(value) for name, value in kept.items()}
    assert metric.record == []


# What LibMTL is told, and what it is given.


def test_each_metric_has_a_name_and_says_which_way_is_better():
    better = {"mIoU": 1, "pixAcc": 1, "abs_err": 0, "rel_err": 0, "mean": 0, "median": 0}
    better |= dict.fromkeys(["<11.25", "<22.5", "<30"], 1)
    found = {}
    for task in (segmentation(13), depth(), normal()):
        assert len(task["metrics_fn"].score_fun()) == len(task["metrics"])
        found |= dict(zip(task["metrics"], task["weight"], strict=True))
    assert found == better


def test_a_prediction_is_resized_with_aligned_corners():
    pred = torch.tensor([[[[0.0, 3.0], [6.0, 9.0]]]])
    expected = torch.tensor([[[[0.0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]]])
    assert_close(resized(pred, (3, 4)), expected)
    assert resized(pred, (2, 2)) is pred
