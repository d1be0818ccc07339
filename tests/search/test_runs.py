"""A run, all that it starts, and the record that it leaves."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from libmtl_recon_search import process
from libmtl_recon_search.child import Job
from libmtl_recon_search.config import Config
from libmtl_recon_search.config_parts import Launch
from libmtl_recon_search.config_space import Space
from libmtl_recon_search.folder import SearchFolder
from libmtl_recon_search.process import RunError, RunKilledError
from libmtl_recon_search.ranges import Range
from libmtl_recon_search.record import Damaged, read_record
from libmtl_recon_search.recorder import DIGEST, Recorder
from libmtl_recon_search.trouble import MachineError

from .forked import Forking, alive, can_fork, family_of, in_a_fork, until

pytestmark = can_fork

# What a script of LibMTL writes, without one: these tests are about processes.
BEGIN = """
import json, os, signal, subprocess, sys, time
def say(name, text):
    open(os.path.join(os.path.dirname(os.path.abspath(__file__)), name), "w").write(str(text))
"""


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Job]:
    """A job whose script is this text; it needs no Trainer."""
    monkeypatch.setattr("libmtl_recon.launcher.running._left_running", lambda _: True)

    def make(text: str, **more: Any) -> Job:
        script = tmp_path / "script.py"
        script.write_text(BEGIN + text, encoding="utf-8")
        return Job(str(script), (), tmp_path / "runs" / "plan-1.jsonl", **more)

    return make


LEFT_BEHIND = """
for number, more in enumerate(({}, {"start_new_session": True})):
    child = subprocess.Popen(["sleep", "300"], **more)
    say(f"left{number}", child.pid)
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    say("left2", os.getpid())
    time.sleep(300)
while not os.path.exists(os.path.join(os.path.dirname(os.path.abspath(__file__)), "left2")):
    time.sleep(0.01)
time.sleep(0.05)
"""


def left_behind(folder: Path) -> list[int]:
    return [int((folder / f"left{number}").read_text()) for number in range(3)]


@pytest.mark.parametrize(
    ("end", "error"),
    [
        ("", None),
        ("sys.exit(3)", "failed with exit status 3"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
        ("time.sleep(300)", "ended after 1 seconds"),
    ],
    ids=["finished", "failed", "crashed", "timed out"],
)
def test_nothing_that_a_run_started_outlives_it(
    end: str, error: str | None, make: Callable[[str], Job], tmp_path: Path
) -> None:
    job = make(LEFT_BEHIND + end)
    runner = Forking(1, 1.0 if "sleep" in end else None)
    if error is None:
        assert runner.run(job).finished
    else:
        with pytest.raises(RunError, match=error):
            runner.run(job)
    assert [number for number in left_behind(tmp_path) if alive(number)] == []


def test_nothing_outlives_a_search_that_is_killed(
    make: Callable[[str], Job], tmp_path: Path
) -> None:
    job = make(LEFT_BEHIND + "time.sleep(300)")
    number = in_a_fork(lambda: Forking(1).run(job) and None, tmp_path / "log")
    until((tmp_path / "left2").exists)
    until(lambda: (tmp_path / "left2").read_text())
    assert all(map(alive, left_behind(tmp_path)))
    family = [*family_of(number), *left_behind(tmp_path)]
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)
    until(lambda: not any(map(alive, family)))


def test_a_run_whose_guard_is_killed_ends_and_is_run_once_more(
    make: Callable[[str], Job], tmp_path: Path
) -> None:
    job = make("""
if not os.path.exists(sys.argv[0] + "1"):
    say("script.py1", os.getpid())
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(300)
""")
    said: list[str] = []
    assert Forking(1, say=said.append).run(job).finished
    assert not alive(int((tmp_path / "script.py1").read_text()))
    assert len(said) == 1
    assert "was killed by SIGKILL" in said[0]
    assert "It will be run once more." in said[0]


def test_a_run_that_is_killed_twice_has_failed(make: Callable[[str], Job]) -> None:
    said: list[str] = []
    with pytest.raises(RunKilledError, match=r"killed by SIGKILL .*memory"):
        Forking(1, say=said.append).run(make("os.kill(os.getpid(), signal.SIGKILL)"))
    assert len(said) == 1


def test_of_a_long_log_only_the_end_is_read(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text("ä line\n" * 2_000_000 + "no such data\n", encoding="utf-8")
    tracemalloc.start()
    said = process._last_words(log)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert said.endswith("| ä line | no such data .")
    assert most < 4_000_000


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("main.py: error: unknown arguments: --x", "Its error: unknown arguments: --x ."),
        ("main.py: error: --x must be 1. Lower it.", "Its error: --x must be 1. Lower it."),
        ("There is no folder x.", "Its last lines: usage: main.py | There is no folder x."),
    ],
)
def test_the_last_words_of_a_script_are_a_sentence(tmp_path: Path, line: str, said: str) -> None:
    log = tmp_path / "run.log"
    log.write_text(f"usage: main.py\n{line}\n", encoding="utf-8")
    assert process._last_words(log) == said


def test_a_run_that_takes_too_long_is_ended_and_says_why(
    make: Callable[[str], Job], tmp_path: Path
) -> None:
    # It ignores what a run is asked to end by.
    job = make(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('at it', flush=True)\ntime.sleep(300)"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("libmtl_recon_search.guard.PATIENCE", 0.3)
        with pytest.raises(RunError) as caught:
            Forking(1, 0.5).run(job)
    assert str(caught.value) == (
        f"The run `{job.script}` was ended after 0.5 seconds, because of `timeout: {{run: "
        f"0.5}}`. Its last lines: at it . Its log is {job.log}."
    )


def test_waiting_for_another_process_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = process._Clock(10.0)
    times = iter([0.0, 6.0, 106.0, 109.0, 111.0])
    monkeypatch.setattr(process.time, "monotonic", lambda: next(times))
    assert [clock.ran_out(paused=paused) for paused in (False, False, True, False, False)] == [
        False,
        False,
        False,
        False,
        True,
    ]


def test_a_run_that_has_ended_is_not_held_up_by_what_it_left(
    make: Callable[[str], Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "PATIENCE", 0.2)
    monkeypatch.setattr("libmtl_recon_search.guard.PATIENCE", 0.2)
    job = make("import threading; threading.Thread(target=time.sleep, args=(300,)).start()")
    done: list[bool] = []
    thread = threading.Thread(target=lambda: done.append(Forking(1).run(job).finished))
    thread.start()
    thread.join(60)
    assert done == [True]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_run_that_finds_no_room_is_no_failure_of_its_plan(
    number: int, make: Callable[[str], Job]
) -> None:
    text = os.strerror(number)
    with pytest.raises(MachineError, match=f"{text}.*Make room.*same command"):
        Forking(1).run(make(f"raise OSError({number}, {text!r})"))


def test_a_run_that_cannot_write_its_record_says_so(
    make: Callable[[str], Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Recorder, status: int) -> None:
        from libmtl_recon_search.recorder import give_up

        give_up(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    monkeypatch.setattr(Recorder, "end", full)
    with pytest.raises(MachineError, match=r"could not write.*No space left on device"):
        Forking(1).run(make(""))


def test_a_run_gets_whole_paths(
    make: Callable[[str], Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIBMTL_RECON_CACHE", "profiles")
    monkeypatch.setenv("LIBMTL_RECON_DATA", "memory://data")
    job = make("""
say("seen", json.dumps([os.environ[f"LIBMTL_RECON_{name}"] for name in ("CACHE", "DATA")]))
""")
    Forking(1).run(job)
    assert json.loads((tmp_path / "seen").read_text()) == [
        str(tmp_path / "profiles"),
        "memory://data",
    ]


def test_what_a_run_starts_writes_to_its_log_where_the_search_has_no_output(
    make: Callable[[str], Job], tmp_path: Path
) -> None:
    job = make("subprocess.run(['echo', 'from a child'], check=True)")

    def work() -> None:
        os.close(1)  # whose number the log then gets
        Forking(1).run(job)

    number = in_a_fork(work, tmp_path / "log")
    assert os.waitpid(number, 0)[1] == 0, (tmp_path / "log").read_text()
    assert job.log.read_text() == "from a child\n"


# Records.


def write_run(file: Path, search: str = "") -> list[bytes]:
    """A whole record; its lines."""
    recorder = Recorder(file)
    recorder.write("started", after=0.1, search=search)
    higher = {"up": {"Err": False}}
    recorder.write("built", higher_is_better=higher, parameters=9, weightings=["EW"])
    for epoch in range(3):
        for mode in ("train", "val", "test"):
            metrics = {"up": {"Err": 1.0 / (epoch + 1)}}
            recorder.write("measured", epoch=epoch, mode=mode, losses={}, metrics=metrics)
    recorder.end(0)
    return file.read_bytes().splitlines(keepends=True)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    assert read_record(file) is None
    lines = write_run(file, "this")
    found = read_record(file, "this")
    assert found is not None
    assert [len(found.epochs[mode]) for mode in ("train", "val", "test")] == [3, 3, 3]
    assert DIGEST in json.loads(lines[-1])
    with pytest.raises(Damaged, match="another script"):
        read_record(file, "other")


def test_a_record_that_was_cut_off_at_any_byte_is_an_unfinished_run(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    whole = b"".join(write_run(file))
    for length in range(0, len(whole), 5):
        file.write_bytes(whole[:length])
        assert read_record(file) is None, length


def test_a_byte_that_changed_is_damage(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    whole = b"".join(write_run(file))
    last = whole[:-1].rindex(b"\n") + 1
    for place in range(0, last, 7):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(Damaged):
            read_record(file)


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: bytes(len(whole)),
        lambda whole: whole[: len(whole) // 2] + bytes(len(whole) // 2),
        lambda whole: whole + bytes(512),
        lambda whole: whole + whole[:40],
        lambda whole: b"\xff\xfe" + whole,
        lambda whole: b"garbage\n" + whole,
        lambda _: b"[1, 2]\n",
        lambda _: b'{"no event": 1}\n',
        lambda _: b'{"event": "measured", "epoch": 0, "mode": "val", "metrics": {"a": 5}}\n',
        lambda _: (
            b'{"event": "measured", "epoch": 0, "mode": "val", "metrics": {"a": {"b": "c"}}}\n'
        ),
        lambda _: b'{"event": "measured", "epoch": 0, "mode": "no", "metrics": {}}\n',
        lambda _: b'{"event": "built", "parameters": "many"}\n',
        lambda _: b"[" * 100_000 + b"\n",
    ],
)
def test_what_no_run_wrote_is_damage(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    file.write_bytes(damage(b"".join(write_run(file))))
    with pytest.raises(Damaged, match="damaged from byte"):
        read_record(file)


def test_a_damaged_record_is_set_aside_and_its_run_made_again(
    make: Callable[[str], Job], tmp_path: Path
) -> None:
    job, said = make("say('seen', 1)"), []
    Forking(1).run(job)
    whole = job.events.read_bytes()
    (tmp_path / "seen").unlink()
    job.events.write_bytes(bytes(len(whole)))
    assert Forking(1, say=said.append).run(job).finished
    assert (tmp_path / "seen").exists()
    assert job.events.with_name("plan-1.jsonl.damaged-1").read_bytes() == bytes(len(whole))
    assert len(said) == 1
    assert f"{job.events}, cannot be used: it is damaged from byte 0 on" in said[0]


# What tells of which search a folder is.


def config(**more: Any) -> Config:
    return Config(script="multidigits", space=Space(k=Range(low=0, high=3)), **more)


@pytest.mark.parametrize(
    "content", [b"", bytes(300), b"{", b"[]", b"\xff\xfe", b"[" * 100_000], ids=range(6)
)
def test_a_damaged_search_json_is_set_aside(content: bytes, tmp_path: Path) -> None:
    folder, said = SearchFolder(tmp_path), []
    with folder.opened(config()):
        pass
    file = tmp_path / "search.json"
    whole = file.read_bytes()
    file.write_bytes(content)
    with folder.opened(config(), said.append):
        pass
    assert file.read_bytes() == whole
    assert (tmp_path / "search.json.damaged-1").read_bytes() == content
    assert len(said) == 1
    assert "search.json.damaged-1" in said[0]


def test_what_a_search_is_known_by_is_its_own(tmp_path: Path) -> None:
    found = []
    by_two = config(launch=Launch(nproc_per_node=2))
    searches = (config(), config(seed=7), config(threads=3), config(trials=9), by_two)
    for number, one in enumerate(searches):
        folder = SearchFolder(tmp_path / str(number))
        with folder.opened(one):
            found.append((folder.identity, folder.runs_of))
    first, seed, threads, trials, launched = found
    assert trials == first  # going on with more trials is the same search
    assert launched == first  # as is going on by several processes, which change no run
    assert seed[0] != first[0]
    assert seed[1] == first[1]
    assert threads[1] != first[1]


def test_a_search_goes_on_with_another_launch(tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path)
    for ranks in (1, 2, 1):
        with folder.opened(config(launch=Launch(nproc_per_node=ranks))):
            pass
    assert "launch" not in json.loads((tmp_path / "search.json").read_text(encoding="utf-8"))


# What a script's flags are.


def test_a_script_says_its_flags_and_nothing_else(tmp_path: Path) -> None:
    tiny = Path(__file__).with_name("tiny.py")
    for number, flags in enumerate(((), ("--fault", "exit", "--no_such_flag"))):
        job = Job(str(tiny), flags, tmp_path / f"flags-{number}.jsonl", describe=True)
        found = Forking(1).run(job)
        assert found.known is not None
        assert {"epochs", "tags", "quick", "weighting", "recon_k"} <= set(found.known)
        assert {"tags", "img_size"} <= set(found.several) <= set(found.known)
        assert not {"epochs", "quick", "weighting"} & set(found.several)
        assert (found.parameters, found.step_time) == (0, None)
        again = read_record(job.events)
        assert again is not None
        assert (again.known, again.several) == (found.known, found.several)
        assert job.log.read_text() == ""
