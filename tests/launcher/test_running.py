"""A script under the launcher behaves as if Python had run it."""

from __future__ import annotations

import multiprocessing.spawn
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from forks import python

from libmtl_recon import StopRun, TrainerHook, UsageError, find_script, run_module, run_script

SCRIPT = Path(__file__).parents[1] / "scripts" / "two_tasks.py"

# A script that builds a Trainer without training, which is all that the launcher asks for.
BUILDS = """
import torch.nn as nn
from LibMTL import Trainer
from LibMTL.architecture import HPS
from LibMTL.loss import CELoss
from LibMTL.metrics import AccMetric
from LibMTL.weighting import EW

class Encoder(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)

def build():
    task = {"metrics": ["Acc"], "metrics_fn": AccMetric(), "loss_fn": CELoss(), "weight": [1]}
    return Trainer({"a": task}, EW, HPS, Encoder, nn.ModuleDict({"a": nn.Linear(2, 2)}), False,
                   False, {"optim": "adam"}, None, weight_args={}, arch_args={})
"""


def write(folder: Path, code: str, name: str = "script.py") -> Path:
    file = folder / name
    file.write_text(code, encoding="utf-8")
    return file


def launch(*args: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*python(), "-m", "libmtl_recon", "run", *args],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=cwd,
        env={**os.environ, **environment},
        check=False,
    )


def losses(text: str) -> list[str]:
    """LibMTL's lines of losses, without the times."""
    rows = [line for line in text.splitlines() if line.startswith("Epoch")]
    return [re.sub(r"Time: [\d.]+", "", row) for row in rows]


def test_a_script_that_knows_nothing_of_us_gives_the_same_losses(tmp_path: Path) -> None:
    args = ["--weighting", "EW", "--arch", "HPS", "--seed", "5", "--dump"]
    launched = launch(str(SCRIPT), *args, str(tmp_path / "a.pt"))
    assert launched.returncode == 0, launched.stderr
    own = write(tmp_path, "import libmtl_recon\n" + SCRIPT.read_text(encoding="utf-8"))
    direct = subprocess.run(
        [*python(), str(own), *args, str(tmp_path / "b.pt")],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert direct.returncode == 0, direct.stderr
    assert losses(launched.stdout) == losses(direct.stdout)
    assert len(losses(direct.stdout)) == 2
    import torch

    first, second = torch.load(tmp_path / "a.pt"), torch.load(tmp_path / "b.pt")
    assert first["losses"].shape == (2, 2)
    assert torch.equal(first["losses"], second["losses"])
    equal = {
        key for key in first["after"] if torch.equal(first["after"][key], second["after"][key])
    }
    assert equal == second["after"].keys()
    assert {"encoder.one.weight", "decoders.sign.weight"} <= equal


def test_gradops_and_recon_by_libmtls_flags_alone(tmp_path: Path) -> None:
    layers = write(tmp_path, '{"norm": 9, "one": 7, "two": 1}', "layers.json")
    done = launch(
        str(SCRIPT),
        *("--weighting", "GradOPS", "--gradops_alpha", "-1", "--arch", "Recon"),
        *("--recon_k", "2", "--recon_layers", str(layers), "--dump", str(tmp_path / "m.pt")),
    )
    assert done.returncode == 0, done.stderr
    assert "2 of 3 layers are task-specific" in done.stdout
    import torch

    keys = set(torch.load(tmp_path / "m.pt")["after"])
    assert "encoder.one.tasks.sign.weight" in keys
    assert "encoder.norm.tasks.size.running_mean" in keys
    assert "encoder.two.weight" in keys


def test_paths_and_arguments_are_the_scripts(tmp_path: Path) -> None:
    write(tmp_path, "WORD = 'beside'", "neighbour_of_script.py")
    code = BUILDS + (
        "import sys, neighbour_of_script, pickle\n"
        "assert __name__ == '__main__' and __file__ == sys.argv[0], (__name__, __file__)\n"
        "assert sys.modules['__main__'].build is build\n"
        "assert pickle.loads(pickle.dumps(Encoder)) is Encoder\n"
        "build()\n"
        "print(neighbour_of_script.WORD, sys.argv[1:], sys.path[0])\n"
    )
    script = write(tmp_path, code)
    done = launch(str(script), "--flag", "x y", "--help")
    assert done.returncode == 0, done.stderr
    assert f"beside ['--flag', 'x y', '--help'] {tmp_path}" in done.stdout


@pytest.mark.parametrize(
    ("ending", "status", "said"),
    [
        ("sys.exit(7)", 7, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit('said at the end')", 1, "said at the end"),
        ("raise KeyboardInterrupt", 130, "interrupted"),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("raise GeneratorExit('not an Exception')", 1, "GeneratorExit"),
        ("sys.excepthook = lambda *_: print('my hook', file=sys.stderr)\n1 / 0", 1, "my hook"),
    ],
)
def test_exit_status(
    ending: str, status: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = write(tmp_path, f"import sys\n{ending}\n")
    assert run_script(script) == status
    assert said in capsys.readouterr().err


def test_a_traceback_has_the_scripts_frames_and_none_of_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = write(tmp_path, "def inner():\n    return {}['missing']\n\ninner()\n")
    assert run_script(script) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last)")
    assert shown.count(str(script)) == 2
    assert "launcher.py" not in shown
    assert "return {}['missing']" in shown
    assert shown.rstrip().endswith("KeyError: 'missing'")


def test_a_traceback_through_the_trainer_has_no_frame_of_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = BUILDS.replace("super().__init__(2, 2)", "raise OSError('no weights')")
    code += (
        "try:\n    build()\nexcept OSError as error:\n    raise ValueError('outer') from error\n"
    )
    assert run_script(write(tmp_path, code)) == 1
    shown = capsys.readouterr().err
    assert "OSError: no weights" in shown
    assert shown.rstrip().endswith("ValueError: outer")
    assert f"LibMTL{os.sep}trainer.py" in shown
    assert f"{os.sep}libmtl_recon{os.sep}" not in shown


def test_a_fault_of_our_own_is_not_hidden(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_script(write(tmp_path, BUILDS + "Trainer(1, 2, 3)\n")) == 1
    shown = capsys.readouterr().err
    assert "TypeError: missing a required argument: 'encoder_class' (of Trainer.__init__)" in shown


def test_a_syntax_error_shows_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = write(tmp_path, "x = 1\ny = (\n")
    assert run_script(script) == 1
    shown = capsys.readouterr().err
    assert f'File "{script}", line 2' in shown
    assert "launcher.py" not in shown


def test_our_errors_are_a_paragraph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        "from libmtl_recon import UsageError\nraise UsageError('--x', 'must be y', 3, 'Say y.')\n"
    )
    assert run_script(write(tmp_path, code)) == 2
    assert capsys.readouterr().err == "libmtl-recon: error: --x must be y (got 3). Say y.\n"


def test_everything_is_put_back(tmp_path: Path) -> None:
    def state() -> list[object]:
        main, tell = sys.modules["__main__"], multiprocessing.spawn.get_preparation_data
        return [sys.argv, list(sys.path), main, tell, sys.excepthook]

    before = state()
    code = "import sys\nsys.path.append('/nowhere')\nsys.excepthook = print\nsys.exit(3)\n"
    assert run_script(write(tmp_path, code), ["--a"]) == 3
    assert state() == before


def test_a_script_may_run_twice_in_a_process(tmp_path: Path) -> None:
    from LibMTL.config import LibMTL_args

    before = LibMTL_args.format_help()
    code = "from LibMTL.config import LibMTL_args\n"
    code += "LibMTL_args.add_argument_group('own').add_argument('--own_flag')\n"
    code += "LibMTL_args.set_defaults(lr=3)\n"
    code += "assert LibMTL_args.parse_args().own_flag == 'x'\n"
    script = write(tmp_path, code + BUILDS + "build()\n")
    for _ in range(2):
        assert run_script(script, ["--own_flag", "x"]) == 0
    assert LibMTL_args.format_help() == before
    assert LibMTL_args.parse_args([]).lr != 3


class Stopping(TrainerHook):
    def built(self, trainer: object) -> None:
        raise StopRun


def test_a_hook_may_end_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = write(tmp_path, BUILDS + "build()\nprint('not reached')\n")
    assert run_script(script, hooks=[Stopping()]) == 0
    assert "not reached" not in capsys.readouterr().out


def test_hooks_are_still_taken_under_their_old_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = write(tmp_path, BUILDS + "build()\nprint('not reached')\n", "by_old_name.py")
    with pytest.warns(DeprecationWarning, match=r"hooks=\[") as said:
        assert run_script(script, observers=[Stopping()]) == 0
    monkeypatch.chdir(tmp_path)
    with pytest.warns(DeprecationWarning, match=r"hooks=\[") as said_of_module:
        assert run_module(script.stem, observers=[Stopping()]) == 0
    assert {said[0].filename, said_of_module[0].filename} == {__file__}
    assert "not reached" not in capsys.readouterr().out


def test_a_script_without_a_trainer_is_told_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_script(write(tmp_path, "print('hello')\n")) == 1
    assert "without building a LibMTL Trainer" in capsys.readouterr().err


def test_asking_a_script_for_help_is_no_failure(tmp_path: Path) -> None:
    code = "import argparse\nargparse.ArgumentParser().parse_args()\n"
    assert run_script(write(tmp_path, code), ["--help"]) == 0


def test_the_scripts_own_source_decides_what_its_annotations_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_script(write(tmp_path, "def f(x: int): pass\nprint(f.__annotations__)\n"))
    assert "{'x': <class 'int'>}" in capsys.readouterr().out


def test_main_is_what_python_makes_of_it(tmp_path: Path) -> None:
    code = (
        "import sys, os\n"
        "print(__file__, sys.argv, sys.path[0], type(__builtins__).__name__,\n"
        "      __spec__, __package__, type(__loader__).__name__, __doc__)\n"
        "sys.exit(0)\n"
    )
    (tmp_path / "real").mkdir()
    write(tmp_path / "real", "'A docstring.'\n" + code, "target.py")
    (tmp_path / "link.py").symlink_to(tmp_path / "real" / "target.py")
    plain = subprocess.run(
        [sys.executable, "link.py", "--", "-x"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        check=True,
    )
    launched = launch("link.py", "--", "-x", cwd=tmp_path)
    assert launched.stdout == plain.stdout, launched.stderr


def test_the_encoding_that_a_script_declares_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "latin.py"
    file.write_bytes("# -*- coding: latin-1 -*-\nprint(len('äöü'))\n".encode("latin-1"))
    run_script(file)
    assert capsys.readouterr().out == "3\n"


def test_processes_that_a_script_spawns_know_us_and_find_its_functions(tmp_path: Path) -> None:
    # The script's imports of LibMTL run in the new process, where nothing else imports us.
    code = BUILDS + (
        "import multiprocessing\n"
        "def double(x):\n    return 2 * x\n"
        "if __name__ == '__main__':\n"
        "    build()\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print('doubled', pool.map_async(double, [4]).get(100))\n"
    )
    done = launch(str(write(tmp_path, code)))
    assert "doubled [8]" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.py", None, "built-in problems are multidigits"),
        ("multidigit", None, r"Did you mean multidigits\?"),
        (".", None, "This is a folder"),
        ("binary.py", b"\xff\xfe\x00", "Python source"),
        ("zeros.py", b"x = 1\x00\n", "Python source"),
        ("unknown.py", b"# -*- coding: no-such-code -*-\n", "Python source"),
    ],
)
def test_what_is_no_script_is_refused(
    name: str,
    content: bytes | None,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(name).write_bytes(content)
    with pytest.raises(UsageError, match=said):
        find_script(name)


def test_built_in_problems_go_by_their_names() -> None:
    assert find_script("multidigits").name == "multidigits.py"
