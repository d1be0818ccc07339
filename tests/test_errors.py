"""The template of errors: sentences, bounded, safe for a terminal, in the caller's own names."""

from __future__ import annotations

import pickle

import pytest

from libmtl_recon.errors import ReconError, UsageError, naming
from libmtl_recon.texts import bounded, did_you_mean, printable


@pytest.mark.parametrize("value", [True, False, None])
@pytest.mark.parametrize(
    "rule", ["must be given with --arch Recon", "cannot be combined with EW", "needs a GPU"]
)
def test_a_rule_about_presence_shows_no_value_that_says_nothing(rule: str, value: object) -> None:
    error = UsageError("--flag", rule, value, "Leave it out.")
    assert str(error) == f"--flag {rule}. Leave it out."


@pytest.mark.parametrize("value", [True, None, 3, "x"])
def test_any_other_rule_shows_what_was_found(value: object) -> None:
    error = UsageError("alpha", "must be a finite number", value, "Try 0.")
    assert str(error) == f"alpha must be a finite number (got {value!r}). Try 0."


def test_a_value_of_a_rule_about_presence_is_shown() -> None:
    error = UsageError("--flag", "cannot be combined with EW", "best.pt", "Leave it out.")
    assert str(error) == "--flag cannot be combined with EW (got 'best.pt'). Leave it out."


def test_messages_are_bounded_and_keep_both_ends() -> None:
    long = UsageError("p" * 5000, "must" + "r" * 5000, "v" * 5000, "w" * 5000 + "END")
    assert len(str(long)) < 1000
    assert str(long).endswith("END")
    text = str(ReconError("START" + "x" * 5000 + "END"))
    assert len(text) == 1500
    assert text.startswith("START")
    assert text.endswith("END")


def test_messages_hold_nothing_that_a_terminal_obeys() -> None:
    name = "a\x1b[2Jb\x07\u202ec\udcff"
    shown = r"a\x1b[2Jb\x07\u202ec\udcff"
    assert str(ReconError(f"{name}\nsecond line")) == f"{shown}\nsecond line"
    error = UsageError(name, f"must not be {name}", name, f"Rename {name}.")
    assert str(error).count(shown) == 4
    assert error.value == name
    assert str(error).isprintable()


def test_errors_survive_pickling() -> None:
    error = UsageError("K", "must be given with X", None, "Raise `K`.")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert again.way_out == "Raise `K`."


def test_naming_translates_arguments_at_the_boundary() -> None:
    with pytest.raises(UsageError) as caught, naming(K="--recon_k", layers="--recon_layers"):
        raise UsageError("K", "must fit `layers`", 9, "Lower `K`; the layers stay.")
    error = caught.value
    assert error.parameter == "--recon_k"
    assert str(error) == (
        "--recon_k must fit --recon_layers (got 9). Lower --recon_k; the layers stay."
    )
    with pytest.raises(ReconError) as paragraph, naming(layers="--recon_layers"):
        raise ReconError("Give other `layers`: layers are missing.")
    assert str(paragraph.value) == "Give other --recon_layers: layers are missing."


def test_other_exceptions_pass_a_boundary_untouched() -> None:
    with pytest.raises(KeyError, match="`K`"), naming(K="--recon_k"):
        raise KeyError("`K`")


def test_printable_leaves_what_prints() -> None:
    assert printable("größe 数 \u00a0😀") == "größe 数 \u00a0😀"
    assert printable("a\nb\tc", keep="\n") == "a\nb\\tc"


def test_bounded_counts_characters() -> None:
    assert bounded("x" * 50, 50) == "x" * 50
    assert len(bounded("x" * 51, 50)) == 50


@pytest.mark.parametrize(
    ("given", "known", "hint"),
    [
        ("serch", ["score", "search"], "Did you mean search? "),
        ("GRADOPS", ["GradOPS", "EW"], "Did you mean GradOPS? "),
        ("score_every", ["--score-every"], "Did you mean --score-every? "),
        ("zzz", ["score", "search"], ""),
        ("x" * 10**6, ["score"], ""),
    ],
)
def test_a_near_name_is_proposed(given: str, known: list[str], hint: str) -> None:
    assert did_you_mean(given, known) == hint
