"""Scripts say which flags they have, in whichever way they read their command line."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from libmtl_recon import ScriptFlags, run_script, script_flags

TWO_TASKS = Path(__file__).parents[2] / "scripts" / "two_tasks.py"

BEGIN = """
import argparse, sys
from LibMTL.config import LibMTL_args, prepare_args
def came_too_far(*args):
    print("too far")
    raise SystemExit(9)
"""
ADDS = """
LibMTL_args.add_argument("--path", required=True)
LibMTL_args.add_argument("--tags", "-t", nargs="*")
LibMTL_args.add_argument("--sizes", nargs=2, type=int)
LibMTL_args.add_argument("--more-of", nargs="+", action="extend")
LibMTL_args.add_argument("--one", nargs=1)
LibMTL_args.add_argument("--perhaps", nargs="?")
LibMTL_args.add_argument("--again", action="append")
LibMTL_args.add_argument("--shown", action=argparse.BooleanOptionalAction)
LibMTL_args.add_argument("positional", nargs="+")
"""
OWN = ("path", "tags", "sizes", "more-of", "one", "perhaps", "again", "shown", "no-shown")
SEVERAL = ("tags", "sizes", "more-of")


@pytest.fixture
def describe(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Return the flags of a script with this text."""
    file = tmp_path / "main.py"

    def describe(text: str, *args: str) -> ScriptFlags:
        file.write_text(BEGIN + text + "\ncame_too_far()", encoding="utf-8")
        found: list[ScriptFlags] = []
        with script_flags(found.append):
            status = run_script(file, args)
        assert (status, capsys.readouterr()) == (0, ("", ""))
        assert len(found) == 1
        return found[0]

    return describe


WAYS = {
    "as most do": "LibMTL_args.parse_args()",
    "from sys.argv": "LibMTL_args.parse_args(sys.argv[1:])",
    "tolerantly": "LibMTL_args.parse_known_args()",
    "intermixed": "LibMTL_args.parse_intermixed_args()",
    "intermixed and tolerantly": "LibMTL_args.parse_known_intermixed_args()",
    "as a parent": "argparse.ArgumentParser(parents=[LibMTL_args], add_help=False).parse_args()",
    "as a tolerant parent": "argparse.ArgumentParser(parents=[LibMTL_args], add_help=False)"
    ".parse_known_args()",
    "a copy": "import copy; copy.deepcopy(LibMTL_args).parse_known_args()",
    "with defaults asked for first": "LibMTL_args.set_defaults(seed=3)\n"
    "params = argparse.ArgumentParser().parse_args([])\nLibMTL_args.parse_args()",
    "in a subclass": """
class Own(argparse.ArgumentParser):
    def parse_args(self, *args, **kwargs):
        return super().parse_args(*args, **kwargs)
Own(parents=[LibMTL_args], conflict_handler="resolve").parse_args()
""",
    "behind a function that shields itself": """
try:
    LibMTL_args.parse_args()
except Exception:
    pass
""",
}


@pytest.mark.parametrize("args", [(), ("--seed", "3", "--tags", "a", "b")], ids=["bare", "flags"])
@pytest.mark.parametrize("way", WAYS)
def test_each_way_of_parsing_is_known(describe, way: str, args: tuple[str, ...]) -> None:
    found = describe(ADDS + WAYS[way], *args)
    assert found.known is not None
    own = [name for name in found.known if name in OWN]
    assert own == list(OWN)
    assert {"weighting", "arch", "img_size", "recon_k", "gradops_alpha"} <= set(found.known)
    assert "t" not in found.known
    assert set(SEVERAL) | {"img_size", "num_experts"} <= set(found.several)
    assert not {*OWN, "seed", "weighting", "lr", "rep_grad"} - set(SEVERAL) & set(found.several)


def test_what_is_parsed_before_is_added_and_asks_for_nothing(describe) -> None:
    before = """
first = argparse.ArgumentParser(add_help=False)
first.add_argument("--config", required=True)
group = first.add_mutually_exclusive_group(required=True)
group.add_argument("--left", nargs=2)
group.add_argument("--right")
known, rest = first.parse_known_args()
assert [a.required for a in first._actions] == [True, False, False]
assert group.required
LibMTL_args.parse_args(rest)
"""
    for args in ((), ("--left", "1", "2"), ("--seed", "1")):
        found = describe(before, *args)
        assert found.known is not None
        assert found.known[:3] == ("config", "left", "right")
        assert "weighting" in found.known
        assert found.several[0] == "left"


def test_a_parser_without_the_flags_of_libmtl_is_the_script_s_own(describe) -> None:
    strict = """
parser = argparse.ArgumentParser()
parser.add_argument("--width", required=True, nargs="*")
parser.add_argument("--weighting")
params = parser.parse_args()
"""
    found = describe(strict)
    assert found == ScriptFlags(("help", "width", "weighting"), ("width",))
    assert describe(strict.replace("parse_args()", "parse_args(sys.argv[1:])"), "--x") == found
    # One that leaves the rest to others: the script ends where it hands its arguments over.
    tolerant = strict.replace("parser.parse_args()", "parser.parse_known_args()[0]")
    assert describe(tolerant + "prepare_args(params)", "--width", "3") == found
    # No words at all may be those of code that wants defaults.
    bare = strict.replace("parse_args()", "parse_args([])") + "prepare_args(params)"
    assert describe(bare) == found


def test_commands_of_a_parser_have_flags_of_their_own(describe) -> None:
    found = describe("""
parser = argparse.ArgumentParser(add_help=False)
commands = parser.add_subparsers(required=True)
commands.add_parser("train", add_help=False).add_argument("--rounds", nargs="+")
parser.parse_args()
""")
    assert found == ScriptFlags(("rounds",), ("rounds",))


def test_parsers_of_other_words_go_on(describe) -> None:
    found = describe(
        """
other = argparse.ArgumentParser()
other.add_argument("--depth", type=int)
assert other.parse_args(["--depth", "3"]).depth == 3
assert other.parse_known_args(["--depth", "3"])[0].depth == 3
LibMTL_args.parse_args()
""",
        "--seed",
        "3",
    )
    assert found.known is not None
    assert "depth" not in found.known


def test_a_script_that_parses_nothing_has_flags_that_nobody_knows(describe) -> None:
    assert describe("prepare_args(argparse.Namespace(weighting='EW'))") == ScriptFlags(None, ())
    builds = """
from LibMTL import Trainer
class Own(Trainer):
    pass
import inspect
names = inspect.signature(Trainer.__init__).parameters
Own(**{**{name: None for name in names if name not in ("self", "kwargs")},
       "task_dict": {"a": {}}, "decoders": {}, "weight_args": {}, "arch_args": {}})
"""
    assert describe(builds) == ScriptFlags(None, ())


def test_all_is_as_before_afterwards(describe, capsys: pytest.CaptureFixture[str]) -> None:
    before = dict(vars(argparse.ArgumentParser))
    describe(ADDS + "LibMTL_args.parse_args()")
    assert dict(vars(argparse.ArgumentParser)) == before
    with pytest.raises(RuntimeError, match="nest"), script_flags(print), script_flags(print):
        pass
    assert dict(vars(argparse.ArgumentParser)) == before
    assert run_script(TWO_TASKS, ["--no-such-flag"]) == 2
    assert "unrecognized arguments: --no-such-flag" in capsys.readouterr().err


def test_a_script_that_fails_before_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "main.py"
    file.write_text("import no_such_module", encoding="utf-8")
    found: list[ScriptFlags] = []
    with script_flags(found.append):
        assert run_script(file) == 1
    assert not found
    assert "No module named 'no_such_module'" in capsys.readouterr().err
