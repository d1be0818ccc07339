"""Workers with another script, configuration or version are refused, and change nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from database_workers import NAME
from libmtl_recon_search.database.claims import Claims
from libmtl_recon_search.database.header import agree

from libmtl_recon import ReconError

Worker = Callable[..., Claims]
SCRIPT = b"print('train')\n"


def fingerprint(**changes: Any) -> dict[str, Any]:
    ours = {
        "script": hashlib.sha256(SCRIPT).hexdigest(),
        "configuration": {"trials": 30, "space": {"alpha": [-1.0, 0.0]}, "score": (1, 2)},
        "versions": {"torch": "2.12.0", "LibMTL": "1.1.5"},
    }
    return {**ours, **changes}


def trials(claims: Claims) -> list[dict[str, Any]]:
    study = optuna.load_study(study_name=NAME, storage=claims.storage)
    return [trial.user_attrs for trial in study.get_trials()]


def test_workers_of_one_search_agree(any_url: str, worker: Worker) -> None:
    for _ in range(3):
        agree(worker(any_url), fingerprint())
    claims = worker(any_url)
    assert len(trials(claims)) == 1
    assert list(claims.keys()) == ["header"]


def test_of_two_that_begin_at_once_the_first_counts(
    sqlite_url: str, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = worker(sqlite_url), worker(sqlite_url)
    post = one.post

    def late(key: str, content: bytes) -> Any:
        agree(other, fingerprint(versions={"torch": "2.13.0", "LibMTL": "1.1.5"}))
        return post(key, content)

    monkeypatch.setattr(one, "post", late)
    with pytest.raises(ReconError, match=r'versions\.torch \("2\.13\.0" -> "2\.12\.0"\)'):
        agree(one, fingerprint())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"script": hashlib.sha256(SCRIPT + b"\n").hexdigest()}, "the script's text"),
        (
            {"configuration": {"trials": 30, "space": {"alpha": [0.0]}, "score": [1, 2]}},
            "configuration.space.alpha ([-1.0, 0.0] -> [0.0])",
        ),
        ({"versions": {"torch": "2.12.0"}}, 'versions.LibMTL ("1.1.5" -> null)'),
    ],
)
def test_late_joiner_that_differs_is_refused_in_words(
    url: str, worker: Worker, changes: dict[str, Any], says: str
) -> None:
    first, late = worker(url), worker(url)
    agree(first, fingerprint())
    before = trials(first)
    with pytest.raises(ReconError) as raised:
        agree(late, fingerprint(**changes))
    assert f"was created for another search: {says} changed since then" in str(raised.value)
    assert str(raised.value).startswith("The study 'digits' in ")
    assert late.storage.address.shown in str(raised.value)
    assert trials(first) == before
