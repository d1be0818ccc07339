"""Output that cannot be written ends a command as it ends a Unix tool, and costs nothing else."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libmtl_recon import ConflictProfile, ProfileCache
from libmtl_recon.cli import main
from libmtl_recon.conflicts.grid import BINS
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.launcher import run_script
from libmtl_recon.output import guarded, of_stdout, released, warn

COMMAND = f"{sys.executable} -m libmtl_recon"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A kept profile whose ranking is longer than a pipe holds."""
    monkeypatch.setenv("LIBMTL_RECON_CACHE", str(tmp_path / "cache"))
    layers = tuple(Layer(f"layer{n:05}", "Linear", ((1,),)) for n in range(2000))
    counts = np.zeros((1, len(layers), BINS), np.int64)
    counts[..., 100] = 1
    none = np.zeros((1, len(layers)), np.int64)
    return ProfileCache().save(ConflictProfile(layers, ("a", "b"), counts, none, np.array([1])))


class Broken(io.TextIOBase):
    """Fails after so many characters."""

    encoding = "utf-8"

    def __init__(self, number: int, room: int = 0) -> None:
        self.number, self.room, self.text = number, room, ""

    def write(self, text: str) -> int:
        if len(self.text) + len(text) > self.room:
            raise OSError(self.number, os.strerror(self.number))
        self.text += text
        return len(text)


@pytest.mark.parametrize(
    ("number", "status", "says"),
    [
        (errno.EPIPE, 141, ""),
        (errno.ENOSPC, 1, "Cannot write to standard output: No space left on device."),
        (errno.EBADF, 1, "Cannot write to standard output: Bad file descriptor."),
        (errno.EIO, 1, "Cannot write to standard output: Input/output error."),
    ],
)
@pytest.mark.parametrize("arguments", [["layers", "show"], ["layers", "list"], ["doctor"]])
def test_a_command_ends_by_its_output(
    kept: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    number: int,
    status: int,
    says: str,
) -> None:
    broken = Broken(number, room=5)
    monkeypatch.setattr(sys, "stdout", broken)
    assert main(arguments) == status
    assert sys.stdout is broken
    assert capsys.readouterr().err == (f"libmtl-recon: error: {says}\n" if says else "")


def test_a_process_without_stdout_says_so(
    kept: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["layers", "show"]) == 1
    assert "standard output: Bad file descriptor" in capsys.readouterr().err
    assert sys.stdout is None


@pytest.mark.parametrize("stream", [None, Broken(errno.EPIPE), Broken(errno.ENOSPC)])
def test_a_stderr_that_fails_stops_nothing(
    kept: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, stream: Any
) -> None:
    (ProfileCache().store.where("torn.json")).write_text("{")  # of which stderr would tell
    monkeypatch.setattr(sys, "stderr", stream)
    assert main(["layers", "list"]) == 0
    assert kept in capsys.readouterr().out
    assert main(["layers", "show", "nothing"]) == 2
    assert capsys.readouterr().out == ""


def test_what_the_terminal_has_no_letters_for_is_escaped() -> None:
    behind = io.TextIOWrapper(io.BytesIO(), encoding="ascii")

    def command() -> int:
        print("Δm of \ud800")
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", behind)
        assert guarded(command, own_process=False) == 0
    assert behind.buffer.getvalue() == b"\\u0394m of \\ud800\n"


def test_a_script_has_the_streams_of_the_process(capsys: pytest.CaptureFixture[str]) -> None:
    own = io.StringIO()
    before = sys.stdout, sys.stderr

    def command() -> int:
        guards = sys.stdout, sys.stderr
        with released():
            assert (sys.stdout, sys.stderr) == before
            sys.stdout = own  # and keeps what it puts there
        assert (sys.stdout, sys.stderr) == guards
        print("ours")
        return 0

    try:
        guarded(command, own_process=False)
        assert sys.stdout is own
    finally:
        sys.stdout = before[0]
    assert own.getvalue() == ""
    assert capsys.readouterr().out == "ours\n"


def test_the_status_of_the_command_comes_before_that_of_its_output(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Late(Broken):
        def flush(self) -> None:
            raise OSError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Late(errno.EPIPE, room=100))
    assert guarded(lambda: 130, own_process=False) == 130
    assert guarded(lambda: 0, own_process=False) == 141
    with pytest.raises(SystemExit) as asked:
        guarded(lambda: sys.exit(2), own_process=False)
    assert asked.value.code == 2
    assert guarded(lambda: sys.exit(0), own_process=False) == 141


def write(stream: Any) -> OSError:
    with pytest.raises(OSError) as caught:  # noqa: PT011  # which one is what is asked
        print("text", file=stream, flush=True)
    return caught.value


def close(stream: Any) -> None:
    """Close what still has something to write that cannot be written."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    stream.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("buffering", [-1, 1])
def test_a_full_disk_behind_stdout_is_recognised(
    monkeypatch: pytest.MonkeyPatch, buffering: int
) -> None:
    stream = open("/dev/full", "w", buffering=buffering)  # noqa: SIM115, PTH123  # closing fails
    monkeypatch.setattr(sys, "stdout", stream)
    found = of_stdout(write(stream))
    assert found is not None
    assert (found.exit_status, found.quiet) == (1, False)
    # Nothing that another file, or another fault, is the cause of.
    assert of_stdout(OSError(errno.ENOSPC, "No space left", "other.txt")) is None
    assert of_stdout(OSError(errno.ECONNRESET, "Connection reset")) is None
    assert of_stdout(ValueError("text")) is None
    close(stream)


@pytest.mark.parametrize("unbuffered", [False, True])
def test_a_closed_pipe_behind_stdout_is_recognised(
    monkeypatch: pytest.MonkeyPatch, unbuffered: bool
) -> None:
    reading, writing = os.pipe()
    raw = os.fdopen(writing, "wb", buffering=0)
    stream = io.TextIOWrapper(raw if unbuffered else io.BufferedWriter(raw), write_through=True)  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "stdout", stream)
    assert of_stdout(BrokenPipeError(errno.EPIPE, "of some socket")) is None
    os.close(reading)
    found = of_stdout(write(stream))
    assert found is not None
    assert (found.exit_status, found.quiet) == (141, True)
    close(stream)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no Unix")
@pytest.mark.parametrize(("full", "status"), [(False, 141), (True, 1)])
def test_a_script_ends_by_its_output_without_a_traceback(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    full: bool,
    status: int,
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = open("/dev/full" if full else writing, "w")  # noqa: SIM115, PTH123  # closing fails
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint('text', flush=True)\n")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        assert main(["run", str(script)]) == status
    close(stream)
    said = capsys.readouterr().err
    full_disk = "libmtl-recon: error: Cannot write to standard output: No space left on device.\n"
    assert set(said.splitlines(keepends=True)) == ({full_disk} if full else set())
    script.write_text("raise BrokenPipeError(32, 'of a socket')")  # and stdout is as it should be
    assert main(["run", str(script)]) == 1
    assert "BrokenPipeError: [Errno 32] of a socket" in capsys.readouterr().err


@pytest.mark.parametrize("stream", [None, Broken(errno.EPIPE)])
def test_a_script_that_fails_without_stderr_still_has_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: Any
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    for number, (text, status) in enumerate(
        [("1 / 0", 1), ("raise KeyboardInterrupt", 130), ("raise SystemExit('text')", 1), ("", 1)]
    ):
        script = tmp_path / f"script{number}.py"
        script.write_text(text)
        assert run_script(script) == status
    warn("text")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no Unix")
@pytest.mark.parametrize(
    ("redirection", "status"),
    [("| head -1", 141), ("> /dev/full", 1), (">&-", 1), (">&- 2>&-", 1), ("2>&-", 0)],
)
def test_a_process_ends_as_a_unix_tool_does(kept: str, redirection: str, status: int) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{COMMAND} layers show {redirection}; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
