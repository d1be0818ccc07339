"""Words that are no command, no action and no flag end with what they may have meant."""

from __future__ import annotations

import pytest

from libmtl_recon.cli import build_parser, main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["serch"],
            "libmtl-recon: error: There is no command 'serch'. Did you mean search? There are: run,"
            " score, search, layers, extract, gradops, doctor.",
        ),
        (["layers", "shw"], "There is no action 'shw'. Did you mean show? There are: list, show,"),
        (["gradops", "plto", "x.csv"], "There is no action 'plto'. Did you mean plot?"),
        (["--versoin"], "There is no flag --versoin here. Did you mean --version?"),
        (
            ["score", "--step", "5", "main.py"],
            "libmtl-recon score: error: There is no flag --step here. Did you mean --steps? A "
            "script's own flags stand behind its name.",
        ),
        (["score", "--scroe-every", "3", "x"], "--scroe-every here. Did you mean --score-every?"),
        (["score", "--score_every=3", "x"], "--score_every here. Did you mean --score-every?"),
        (["run", "--single", "digit", "x"], "--single here. Did you mean --single-task?"),
        (
            ["run", "--epochs", "3", "main.py"],
            "There is no flag --epochs here. A script's own flags stand behind its name.",
        ),
        (["layers", "show", "3f2a", "more"], "There is no place for 'more' here."),
        (["layers", "show", "3f2a", "--kk", "3"], "There is no flag --kk here. Did you mean --k?"),
        (["search", "--outt", "x"], "There is no flag --outt here. Did you mean --out?"),
    ],
)
def test_a_typo_is_told_what_it_may_have_meant(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "score"])
def test_what_stands_behind_the_script_is_the_scripts(command: str) -> None:
    own = ["--step", "5", "--scroe-every", "--steps", "7", "--", "-m", "serch"]
    options = build_parser().parse_args([command, "main.py", *own])
    assert options.script == "main.py"
    assert options.args == own


@pytest.mark.parametrize(
    "words", [["x" * 10**6], ["layers", "\x1b[2J" * 99], ["run", "--" + "y" * 10**5]]
)
def test_no_word_makes_the_message_long(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    with pytest.raises(SystemExit):
        main(words)
    error = capsys.readouterr().err
    assert len(error) < 1500
    assert "\x1b" not in error


@pytest.mark.parametrize(
    ("words", "flag"),
    [(["score", "{}", "--plot", "x.png"], "--plot"), (["run", "{}", "--single-task=a"], None)],
)
def test_an_own_flag_behind_the_script_is_told_where_it_stands(
    script: str, capsys: pytest.CaptureFixture[str], words: list[str], flag: str | None
) -> None:
    assert main([word.format(script) for word in words]) == 2
    error = capsys.readouterr().err
    flag = flag or words[-1]
    assert (
        f"libmtl-recon: {flag} stands behind {script}, so that the script got it. A flag of "
        f"libmtl-recon's own stands in front of {script}." in error
    )
    assert main(["score", script, "--plotted", "x"]) == 2
    assert "stands behind" not in capsys.readouterr().err
