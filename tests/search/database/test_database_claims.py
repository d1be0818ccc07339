"""Of all that claim the same at once, one owns it; and what it publishes arrives as it was."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest
from database_workers import NAME, Crew, claim_in_turn
from hypothesis import given
from hypothesis import strategies as st
from libmtl_recon_search.database.address import Address
from libmtl_recon_search.database.claims import Claim, Claims, _written
from libmtl_recon_search.database.opening import open_storage

Worker = Callable[..., Claims]


def live(claims: Claims, key: str) -> list[int]:
    """The numbers of the claims of a key that have not failed, as Optuna tells them anew."""
    study = optuna.load_study(study_name=NAME, storage=claims.storage)
    return [
        trial.number
        for trial in study.get_trials(deepcopy=False)
        if trial.user_attrs.get("key") == key and trial.state != optuna.trial.TrialState.FAIL
    ]


def claimed(claims: Claims, key: str) -> Claim:
    claim = claims.claim(key)
    assert claim is not None
    return claim


def test_second_claim_is_none(any_url: str, worker: Worker) -> None:
    one, other = worker(any_url), worker(any_url)
    claim = claimed(one, "plan-1")
    assert (claim.state, claim.mine, claim.key) == ("running", True, "plan-1")
    assert other.claim("plan-1") is None
    assert one.claim("plan-1") is None
    seen = other.find("plan-1")
    assert seen is not None
    assert (seen.number, seen.state, seen.mine) == (claim.number, "running", False)
    assert live(one, "plan-1") == [claim.number]
    assert other.find("plan-2") is None


def test_profile_of_2_mb_arrives_byte_equal(any_url: str, worker: Worker) -> None:
    one, other = worker(any_url), worker(any_url)
    # As hard to compress as any: in base64 it takes 57 chunks.
    content = np.random.default_rng(0).bytes(2_000_000)
    claim = claimed(one, "score-1")
    assert one.publish(claim, content, record=12)
    there = other.find("score-1")
    assert there is not None
    assert (there.state, there.attrs["record"]) == ("finished", 12)
    assert hashlib.sha256(other.content(there)).digest() == hashlib.sha256(content).digest()
    longest = max(len(str(value)) for value in there.trial.user_attrs.values())
    assert 48_000 <= longest < 65_000


@given(st.binary(max_size=200_000))
def test_no_attribute_is_longer_than_mysql_takes(content: bytes) -> None:
    import base64
    import json
    import zlib

    written = _written(content, {"record": 1})
    assert all(len(json.dumps(value)) < 65_535 for value in written.values())
    parts = [written["outcome"]["content"]]
    parts += [written[f"content:{place}"] for place in range(1, written["outcome"]["chunks"])]
    assert zlib.decompress(base64.b64decode("".join(parts))) == content


def test_nothing_is_published_by_halves(
    url: str, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = worker(url), worker(url)
    claim = claimed(one, "score-1")
    content = np.random.default_rng(0).bytes(100_000)
    whole, seen = one.storage.set_trial_user_attr, []

    def watched(*args: object) -> None:
        whole(*args)  # type: ignore[arg-type]
        found = other.find("score-1")
        assert found is not None
        seen.append(found.state)

    monkeypatch.setattr(one.storage, "set_trial_user_attr", watched)
    one.publish(claim, content)
    assert seen == ["running"] * 3  # two chunks in attributes of their own, and the outcome
    found = other.find("score-1")
    assert found is not None
    assert other.content(found) == content


def test_failed_claim_tells_why_and_frees_the_key(any_url: str, worker: Worker) -> None:
    one, other = worker(any_url), worker(any_url)
    claim = claimed(one, "plan-1")
    assert one.fail(claim, "ran out of luck", text="The run failed.")
    seen = other.find("plan-1")
    assert seen is not None
    assert (seen.state, seen.number) == ("failed", claim.number)
    assert seen.attrs == {"reason": "ran out of luck", "text": "The run failed."}
    assert other.keys() == {"plan-1": seen}
    again = claimed(other, "plan-1")
    assert again.number > claim.number
    found = one.find("plan-1")
    assert found is not None
    assert found.number == again.number
    assert {key: claim.state for key, claim in one.keys().items()} == {"plan-1": "running"}


def test_withdrawn_claim_leaves_nothing(url: str, worker: Worker) -> None:
    one, other = worker(url), worker(url)
    one.withdraw(claimed(one, "plan-1"))
    assert other.find("plan-1") is None
    assert other.keys() == {}
    assert other.claim("plan-1") is not None


def test_ended_claim_publishes_and_fails_no_more(url: str, worker: Worker) -> None:
    one, other = worker(url), worker(url)
    claim = claimed(one, "plan-1")
    other.withdraw(claim)  # as other workers do after the grace
    again = claimed(other, "plan-1")
    assert not one.publish(claim, b"late")
    assert not one.fail(claim, "late")
    one.withdraw(claim)
    found = one.find("plan-1")
    assert found is not None
    assert (found.number, found.state) == (again.number, "running")


@pytest.mark.parametrize("first_fails", [False, True])
def test_each_order_of_two_claims_has_one_owner(
    sqlite_url: str, worker: Worker, monkeypatch: pytest.MonkeyPatch, first_fails: bool
) -> None:
    """The second claims after the first has been added, and before it looks who else there is."""
    one, other = worker(sqlite_url), worker(sqlite_url)
    add, owners = one._add, []

    def interrupted(*args: object) -> None:
        add(*args)  # type: ignore[arg-type]
        if first_fails:
            number = one.storage.get_all_trials(one._id)[-1]._trial_id
            one.storage.set_trial_state_values(number, optuna.trial.TrialState.FAIL)
        owners.append(other.claim("k"))

    monkeypatch.setattr(one, "_add", interrupted)
    owners.append(one.claim("k"))
    (owner,) = [claim for claim in owners if claim is not None]
    assert owner.number == (1 if first_fails else 0)
    assert live(one, "k") == [owner.number]


def _one_owner_each(url: str, folder: Path, crew: Crew, processes: int, count: int) -> None:
    storage = open_storage(Address.parse(url))
    keys = [f"plan-{place}" for place in range(count)]
    together = crew.barrier(processes)
    for place in range(processes):
        crew.start(claim_in_turn, url, keys, together, folder / f"own-{place}")
    assert crew.join(240) == [0] * processes, crew.said()
    owned = Counter(
        key for place in range(processes) if (folder / f"own-{place}").exists()
        for key in (folder / f"own-{place}").read_text().split()
    )  # fmt: skip
    assert owned == dict.fromkeys(keys, 1)
    trials = optuna.load_study(study_name=NAME, storage=storage).get_trials()
    alive = Counter(t.user_attrs["key"] for t in trials if t.state.name == "RUNNING")
    assert alive == dict.fromkeys(keys, 1)
    assert len(trials) == processes * count
    assert crew.said() == ""
    storage.close()


def test_simultaneous_claims_have_one_owner_each(url: str, tmp_path: Path, crew: Crew) -> None:
    _one_owner_each(url, tmp_path, crew, 3, 6)


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(5))
def test_many_simultaneous_claims_have_one_owner_each(
    url: str, tmp_path: Path, crew: Crew, attempt: int
) -> None:
    _one_owner_each(url, tmp_path, crew, 6, 25)
