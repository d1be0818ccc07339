"""What a program keeps until it ends: its main module, for exit handlers, threads and processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from forks import python

SCRIPT = Path(__file__).parents[1] / "scripts" / "two_tasks.py"
TEXT = SCRIPT.read_text(encoding="utf-8")

LEAVES_BEHIND = """
def main(params):
    import atexit, os, pickle, sys, threading
    def look(who):
        main = sys.modules["__main__"]
        same = pickle.loads(pickle.dumps(Encoder)) is Encoder
        print(who, os.path.basename(sys.argv[0]), main.Encoder is Encoder, same, flush=True)
    atexit.register(look, "handler")
    threading.Timer(0.5, look, ["thread"]).start()
    os.chdir("/")
"""

# Builds all that LibMTL's Trainer builds by itself.
OWN_TRAINER = """
class Own(Trainer):
    def __init__(self, task_dict, weighting, architecture, encoder_class, decoders, rep_grad,
                 multi_input, optim_param, scheduler_param, **kwargs):
        nn.Module.__init__(self)
        self.device = torch.device("cuda:0")
        self.kwargs, self.task_dict, self.task_name = kwargs, task_dict, list(task_dict)
        self.task_num, self.rep_grad, self.multi_input = len(task_dict), rep_grad, multi_input
        self._prepare_model(weighting, architecture, encoder_class, decoders)
        self._prepare_optimizer(optim_param, scheduler_param)
        from LibMTL._record import _PerformanceMeter
        self.meter = _PerformanceMeter(task_dict, multi_input)

class Encoder"""

WORKERS = (
    "DataLoader(Numbers(256, 0), batch_size=32, num_workers=1, persistent_workers=True, "
    "multiprocessing_context='{}')"
)


def launch(
    script: Path, *args: str, flags: tuple[str, ...] = (), own: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    interpreter = [sys.executable, *flags] if flags else python()
    return subprocess.run(
        [*interpreter, "-m", "libmtl_recon", "run", *own, str(script), *args],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "LIBMTL_RECON_DEVICE": "cpu"},
        check=False,
    )


def write(file: Path, text: str, encoding: str = "utf-8") -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding=encoding)
    return file


def test_exit_handlers_and_threads_see_the_script(tmp_path: Path) -> None:
    # In a folder and a file of unusual names, with a byte-order mark, under development mode.
    text = TEXT.replace("def main(params):\n", LEAVES_BEHIND)
    script = write(tmp_path / "ünï" / "skrïpt.py", text, "utf-8-sig")
    done = launch(script, "--epochs", "1", flags=("-X", "dev", "-W", "error::ResourceWarning"))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "thread skrïpt.py True True" in done.stdout
    assert done.stdout.endswith("handler skrïpt.py True True\n")


def test_a_trainer_that_builds_all_by_itself_trains_as_asked(tmp_path: Path) -> None:
    text = TEXT.replace("class Encoder", OWN_TRAINER, 1).replace(
        "trainer = Trainer(", "trainer = Own("
    )
    script = write(tmp_path / "own.py", text)
    done = launch(script, "--epochs", "1", "--recon_amp", "bf16", flags=("-O",))
    assert done.returncode == 0, done.stderr
    assert "in bfloat16" in done.stdout
    assert "Epoch: 0000" in done.stdout
    done = launch(script, own=("--single-task", "size"))
    assert done.returncode == 1
    assert "Own does not call LibMTL's Trainer.__init__" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_ctrl_c_ends_the_process_by_its_signal(tmp_path: Path) -> None:
    # From which a shell's loop over several runs knows that it must end, too.
    interrupt = "import os, signal\n    os.kill(os.getpid(), signal.SIGINT)\n    trainer.train("
    script = write(tmp_path / "long.py", TEXT.replace("trainer.train(", interrupt))
    done = launch(script)
    assert done.returncode == -signal.SIGINT
    assert done.stderr == "libmtl-recon: interrupted\n"


def test_a_script_on_standard_input_is_refused() -> None:
    done = launch(Path("-"))
    assert done.returncode == 2
    assert "SCRIPT must be a file on disk" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_of_data_loaders_are_told(method: str, tmp_path: Path) -> None:
    text = TEXT.replace(
        "DataLoader(Numbers(256, 0), batch_size=32, shuffle=True)", WORKERS.format(method)
    )
    done = launch(write(tmp_path / "workers.py", text), "--epochs", "2")
    assert done.returncode == 0, done.stderr
    assert "Epoch: 0001" in done.stdout


def test_an_import_under_the_guard_reaches_spawned_processes(tmp_path: Path) -> None:
    # The module imports LibMTL, which cannot be imported without us; the main module does not.
    write(tmp_path / "needs.py", "import LibMTL\n\ndef double(x):\n    return 2 * x\n")
    script = write(
        tmp_path / "guarded.py",
        "import multiprocessing\n"
        "if __name__ == '__main__':\n"
        "    import libmtl_recon\n"
        "    import needs\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.map_async(needs.double, [4]).get(100))\n",
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.stdout == "[8]\n", done.stderr
