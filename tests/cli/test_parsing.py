"""Words that are no command, no action and no flag end with what they may have meant."""

from __future__ import annotations

import pytest

from libmtl_recon.cli import build_parser, main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["serch"],
            "libmtl-recon: error: Unknown command 'serch'. Did you mean search? Known commands: "
            "run, score, search, layers, extract, gradops, reproduce, sample, doctor.",
        ),
        (["layers", "shw"], "Unknown action 'shw'. Did you mean show? Known actions: list, show,"),
        (["gradops", "plto", "x.csv"], "Unknown action 'plto'. Did you mean plot?"),
        (["--versoin"], "Unknown flag --versoin. Did you mean --version?"),
        (
            ["score", "--step", "5", "main.py"],
            "libmtl-recon score: error: Unknown flag --step. Did you mean --steps? Flags of the "
            "script must follow its name.",
        ),
        (["score", "--scroe-every", "3", "x"], "--scroe-every. Did you mean --score-every?"),
        (["score", "--score_every=3", "x"], "--score_every. Did you mean --score-every?"),
        (["run", "--single", "digit", "x"], "--single. Did you mean --single-task?"),
        (
            ["run", "--epochs", "3", "main.py"],
            "Unknown flag --epochs. Flags of the script must follow its name.",
        ),
        (["layers", "show", "3f2a", "more"], "Unexpected argument 'more'."),
        (["layers", "show", "3f2a", "--kk", "3"], "Unknown flag --kk. Did you mean --k?"),
        (["search", "--outt", "x"], "Unknown flag --outt. Did you mean --out?"),
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
        f"libmtl-recon: {flag} was given after {script} and therefore passed to the script. Put "
        f"flags of libmtl-recon before {script}." in error
    )
    assert main(["score", script, "--plotted", "x"]) == 2
    assert "was given after" not in capsys.readouterr().err
