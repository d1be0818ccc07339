"""Census-Income: found or asked for, encoded by the book, divided by a seed, and learned."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from census_records import make_rows, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from libmtl_recon.errors import ReconError
from libmtl_recon.launcher import run_script
from libmtl_recon.problems import census_income as problem
from libmtl_recon.problems import census_income_data as data

PARTS = ("train", "val", "test")
SHORT = ("--epochs", "3", "--bs", "32", "--lr", "0.01", "--width", "16")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIBMTL_RECON_DATA", str(tmp_path))
    write_rows(tmp_path / "census-income" / "census-income.test", make_rows(600))
    return tmp_path / "census-income"


def signatures(records: data.Records) -> set[bytes]:
    return {codes.numpy().tobytes() for codes in records.codes}


def test_every_field_has_one_role():
    labels_and_weight = {data.INCOME, data.MARITAL, data.EDUCATION, data.WEIGHT}
    assert len(data.NOMINAL) == 31
    assert len(data.CONTINUOUS) == 7
    assert {*data.NOMINAL, *data.CONTINUOUS} | labels_and_weight == set(range(data.FIELDS))


def test_features_are_one_hot_columns_and_numbers():
    rows = make_rows(50)
    records = data.encode(rows)
    features, labels = data.People(records)[[7, 3]]
    assert features.shape == (2, records.width + 7)
    assert torch.equal(features[:, : records.width].sum(1), torch.full((2,), 31.0))
    for feature, row in zip(features, (rows[7], rows[3]), strict=True):
        start = 0
        for field in data.NOMINAL:
            values = sorted({other[field] for other in rows})
            assert feature[start + values.index(row[field])] == 1
            start += len(values)
        for place, field in enumerate(data.CONTINUOUS):
            value = float(row[field])
            expected = np.log1p(value) if field in data.SKEWED else value
            assert feature[start + place].item() == pytest.approx(expected, rel=1e-6)
    assert {task: y.shape for task, y in labels.items()} == dict.fromkeys(data.TASKS, (2, 1))


def test_labels_are_the_paper_s():
    rows = make_rows(3)
    for row, income, marital, education in zip(
        rows,
        ("50000+", "- 50000", "- 50000"),
        ("Never married", "Widowed", "Married-spouse absent"),
        ("High school graduate", "Some college but no degree", "Doctorate degree(PhD EdD)"),
        strict=True,
    ):
        row[data.INCOME], row[data.MARITAL], row[data.EDUCATION] = income, marital, education
    labels = data.encode(rows).labels
    assert labels["income"].tolist() == [1, 0, 0]
    assert labels["marital"].tolist() == [1, 0, 0]
    assert labels["education"].tolist() == [0, 1, 1]


@pytest.mark.parametrize("name", ["census-income.data", "census-income.test"])
def test_one_file_alone_is_divided(tmp_path: Path, name: str):
    write_rows(tmp_path / name, make_rows(600))
    parts = data.load(tmp_path, seed=0)
    assert [len(parts[part]) for part in PARTS] == [400, 100, 100]
    everyone = [signatures(parts[part]) for part in PARTS]
    assert len(set().union(*everyone)) == sum(map(len, everyone))
    numbers = parts["train"].numbers
    torch.testing.assert_close(numbers.mean(0), torch.zeros(7), atol=1e-5, rtol=0)
    torch.testing.assert_close(numbers.std(0, correction=0), torch.ones(7))


def test_with_both_files_only_the_test_file_is_divided(folder: Path):
    rows = make_rows(90, seed=1)
    write_rows(folder / "census-income.data", rows)
    parts = data.load(folder, seed=0)
    assert [len(parts[part]) for part in PARTS] == [90, 300, 300]
    assert torch.equal(parts["train"].labels["income"], data.encode(rows).labels["income"])
    assert signatures(parts["val"]).isdisjoint(signatures(parts["test"]))


def test_data_seed_decides_the_parts_and_seed_does_not(folder: Path, parse):
    def people(*flags: str) -> torch.Tensor:
        return problem.make_loaders(parse(problem, *flags))["val"].dataset.records.codes

    assert torch.equal(people("--seed", "1"), people("--seed", "2"))
    assert not torch.equal(people("--data_seed", "1"), people("--data_seed", "2"))


def test_a_packed_file_is_the_same(folder: Path):
    plain = data.load(folder, 0)["test"]
    file = folder / "census-income.test"
    (folder / "census-income.test.gz").write_bytes(gzip.compress(file.read_bytes()))
    file.unlink()
    packed = data.load(folder, 0)["test"]
    assert torch.equal(plain.codes, packed.codes)
    assert torch.equal(plain.numbers, packed.numbers)


def test_missing_data_are_asked_for(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("LIBMTL_RECON_DATA", str(tmp_path))
    assert run_script("census_income", ["--weighting", "EW"]) == 1
    message = capsys.readouterr().err
    for part in ("LIBMTL_RECON_DATA", str(tmp_path), data.PAGE, "census-income.test"):
        assert part in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("empty", "holds no records"),
        ("short", "line 2: a record must have 42 fields, but this line has 3"),
        ("words", "must be numbers"),
        ("torn", "cannot be read"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, damage: str, says: str):
    file = tmp_path / "census-income.test"
    rows = make_rows(4)
    if damage == "short":
        rows[1] = rows[1][:3]
    if damage == "words":
        rows[2][data.CONTINUOUS[0]] = "old"
    write_rows(file, [] if damage == "empty" else rows)
    if damage == "torn":
        (tmp_path / "census-income.test.gz").write_bytes(gzip.compress(file.read_bytes())[:-9])
        file.unlink()
    with pytest.raises(ReconError, match=says):
        data.load(tmp_path, 0)


def test_the_network_is_the_paper_s(parse):
    params = parse(problem)
    assert (params.lr, params.bs, params.epochs, params.width) == (1e-4, 1024, 200, 192)
    assert (params.dropout, params.optim) == (0.3, "adam")
    network = problem.MLP(400, 192, 0.3)
    weights = [p.shape for p in network.parameters() if p.ndim == 2]
    assert weights == [(192, 400), (192, 192)]
    people = torch.randn(2000, 400)
    dropped = (network(people) == 0).float().mean().item()
    off = (network.eval()(people) == 0).float().mean().item()  # by ReLU alone
    assert dropped == pytest.approx(off + 0.3 * (1 - off), abs=0.02)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30),
    st.integers(1, 29),
)
def test_auc_is_the_share_of_pairs_in_order(pairs: list[tuple[int, bool]], cut: int):
    scores = torch.tensor([[float(score)] for score, _ in pairs])
    labels = torch.tensor([[float(label)] for _, label in pairs])
    metric = problem.AUCMetric()
    for part in (slice(None, cut), slice(cut, None)):
        if len(scores[part]):
            metric.update_fun(scores[part], labels[part])
    (area,) = metric.score_fun()
    positive, negative = scores[labels == 1], scores[labels == 0]
    if not len(positive) or not len(negative):
        assert np.isnan(area)
        return
    difference = positive[:, None] - negative[None, :]
    by_hand = ((difference > 0).double() + 0.5 * (difference == 0).double()).mean()
    assert area == pytest.approx(by_hand.item(), abs=1e-12)


@pytest.mark.parametrize("weighting", ["EW", "GradOPS", "IMTL"])
def test_it_is_learned_and_the_same_for_the_same_seed(folder: Path, run, weighting: str):
    flags = ("--weighting", weighting, *SHORT)
    once, again = run(problem, *flags), run(problem, *flags)
    assert [(m.losses, m.metrics) for m in once.measurements] == [
        (m.losses, m.metrics) for m in again.measurements
    ]
    last = once.measurements[-1]
    assert last.mode == "test"
    assert min(metrics["AUC"] for metrics in last.metrics.values()) > 0.9


@pytest.mark.parametrize("value", ["1", "-0.1", "nan", "half"])
def test_bad_dropout_is_explained(parse, capsys, value: str):
    with pytest.raises(SystemExit) as stop:
        parse(problem, f"--dropout={value}")
    assert stop.value.code == 2
    assert "--dropout: must be a number from 0 to below 1" in capsys.readouterr().err


@pytest.mark.data
def test_real_people_are_learned(run):
    given_folder = Path(os.environ.get("LIBMTL_RECON_DATA", ".")) / "census-income"
    if not any(given_folder.glob("census-income.*")):
        pytest.skip(f"no Census-Income files in {given_folder}; set LIBMTL_RECON_DATA")
    recorder = run(problem, "--weighting", "GradOPS", "--epochs", "1", "--lr", "0.001")
    auc = {task: metrics["AUC"] for task, metrics in recorder.measurements[-1].metrics.items()}
    assert auc["income"] > 0.9
    assert auc["marital"] > 0.97
    assert auc["education"] > 0.8
