"""What a run cost: the time of a step, and memory."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from libmtl_recon_search import cost
from libmtl_recon_search.child import Job
from libmtl_recon_search.cost import WARM_UP, StepClock, peak_memory
from libmtl_recon_search.record import Damaged, read_record
from libmtl_recon_search.recorder import Recorder
from libmtl_recon_search.result import Result
from torch import nn

from libmtl_recon import Measurement

from .forked import Forking, can_fork

TINY = Path(__file__).parent / "tiny.py"
MB = 10**6


class Time:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    found = Time()
    monkeypatch.setattr(cost, "time", found)
    return found


def optimizer(kind: Any = torch.optim.SGD) -> Any:
    return kind([nn.Parameter(torch.zeros(1))], lr=0.1)


@pytest.fixture
def take(time: Time) -> Callable[[Any, list[float]], None]:
    """Have an optimiser step after so many seconds each."""

    def take(optimizer: Any, seconds: list[float]) -> None:
        for second in seconds:
            time.now += second
            optimizer.step()

    return take


Take = Callable[[Any, list[float]], None]


def test_a_step_takes_the_median_without_the_first_few(take: Take) -> None:
    clock, sgd = StepClock(), optimizer()
    assert clock.step_time is None
    clock.follow(sgd)
    take(sgd, [50.0] + [9.0] * WARM_UP + [1.0, 2.0, 3.0, 4.0, 70.0, 2.5])
    assert clock.step_time == pytest.approx(2.75)


def test_of_few_steps_the_later_half_counts(take: Take) -> None:
    clock, sgd = StepClock(), optimizer()
    clock.follow(sgd)
    take(sgd, [50.0, 8.0, 9.0, 1.0, 3.0])
    assert clock.step_time == pytest.approx(2.0)


def test_what_lies_between_passes_is_no_step(time: Time, take: Take) -> None:
    clock, sgd = StepClock(), optimizer()
    for _ in range(3):  # calls of train
        clock.follow(sgd)
        for _ in range(2):  # epochs
            take(sgd, [40.0, 1.0, 1.0, 1.0])
            time.now += 500.0  # a validation
            clock.begin()
    assert clock.step_time == pytest.approx(1.0)


def test_passes_of_one_step_have_a_time(time: Time, take: Take) -> None:
    clock, sgd = StepClock(), optimizer()
    clock.follow(sgd)
    for seconds in (9.0, 8.0, 2.0, 3.0):
        take(sgd, [seconds])
        time.now += 500.0
        clock.begin()
    assert clock.step_time == pytest.approx(2.5)


def test_only_the_optimiser_that_trains_is_listened_to(take: Take) -> None:
    clock, first, second = StepClock(), optimizer(), optimizer(torch.optim.Adam)
    clock.follow(first)
    take(first, [7.0] * 20)
    clock.follow(second)
    take(second, [1.0] * 40)
    take(first, [50.0] * 9)
    take(second, [1.0] * 40)
    assert clock.step_time == pytest.approx(1.0)
    assert clock.stop() is clock.stop() is None
    for trained in (first, second):
        assert not trained._optimizer_step_post_hooks


class Lookahead(torch.optim.Optimizer):
    """Wraps another, as many do: never initialised as an Optimizer itself."""

    def __init__(self, base: Any) -> None:
        self.base, self.param_groups = base, base.param_groups

    def step(self) -> None:
        self.base.step()


@pytest.mark.parametrize(
    "other", [SimpleNamespace(step=lambda: None), Lookahead(optimizer()), None]
)
def test_steps_of_what_is_no_optimiser_of_torch_have_no_time(other: Any, take: Take) -> None:
    clock = StepClock()
    clock.follow(other)
    if other is not None:
        take(other, [1.0] * 9)
    assert clock.step_time is None


def test_an_optimiser_that_is_listened_to_does_the_same() -> None:
    def train(clock: StepClock | None) -> Any:
        torch.manual_seed(0)
        net = nn.Linear(3, 2)
        adam = torch.optim.Adam(net.parameters(), lr=0.1)
        if clock is not None:
            clock.follow(adam)
        for _ in range(5):
            adam.zero_grad()
            net(torch.randn(4, 3)).square().sum().backward()
            adam.step()
        return net.state_dict(), adam.state_dict()

    (net, state), (timed, timed_state) = train(None), train(StepClock())
    assert all(torch.equal(net[key], timed[key]) for key in net)
    assert repr(state) == repr(timed_state)


# Memory.


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells the peak")
def test_memory_is_the_peak_of_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = peak_memory(nn.Linear(1, 1))
    assert before is not None
    held = bytearray(before + 200 * MB)
    del held
    after = peak_memory(nn.Linear(1, 1))
    assert after is not None
    assert after > before + 190 * MB
    # Where /proc does not tell.
    monkeypatch.setattr(cost, "_STATUS", tmp_path / "none")
    known = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert peak_memory(nn.Linear(1, 1)) == known
    (tmp_path / "none").write_text("Name: x\n", encoding="utf-8")
    assert peak_memory(nn.Linear(1, 1)) == known
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_memory(nn.Linear(1, 1)) is None


def test_on_cuda_it_is_what_torch_has_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: [30, 4][device])
    model: Any = SimpleNamespace(parameters=lambda: [SimpleNamespace(is_cuda=True)])
    assert peak_memory(model) == 34


# Runs.


def run(folder: Path, *flags: str, script: Path = TINY, **more: Any) -> Result:
    job = Job(str(script), flags, folder / "runs" / "plan-1.jsonl", **more)
    return Forking(1).run(job)


@can_fork
def test_a_run_writes_what_it_cost(tmp_path: Path) -> None:
    parents = bytearray(900 * MB)  # what this process has held does not count for the run
    del parents
    plain = run(tmp_path / "plain", "--pause", "0.03", "--epochs", "3")
    assert 0.03 < plain.step_time < 0.2
    script = tmp_path / "large.py"
    script.write_text(TINY.read_text() + f"\nheld = bytearray({400 * MB})\n", encoding="utf-8")
    large = run(tmp_path / "large", script=script)
    assert large.memory - plain.memory == pytest.approx(400 * MB, rel=0.2)
    file = tmp_path / "large" / "runs" / "plan-1.jsonl"
    events = [json.loads(line)["event"] for line in file.read_text().splitlines()]
    assert events[-2:] == ["cost", "ended"]
    again = read_record(file)
    assert again is not None
    assert (again.step_time, again.memory) == (large.step_time, large.memory)


@can_fork
def test_several_calls_of_train_are_timed_alike(tmp_path: Path) -> None:
    found = run(tmp_path, "--pause", "0.03", "--epochs", "3", "--fault", "calls")
    assert 0.03 < found.step_time < 0.2


@can_fork
def test_a_run_that_does_not_train_costs_nothing(tmp_path: Path) -> None:
    found = run(tmp_path, start=True)
    assert (found.step_time, found.memory) == (None, None)
    assert "cost" not in (tmp_path / "runs" / "plan-1.jsonl").read_text()


def test_a_recorder_times_the_first_model_within_its_passes(time: Time, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run.jsonl")
    trainers: list[Any] = [
        SimpleNamespace(model=nn.Linear(1, 1), optimizer=optimizer(), task_dict={})
        for _ in range(2)
    ]
    for trainer, seconds in zip(trainers, (1.0, 30.0), strict=True):
        recorder.built(trainer)
        recorder.training(trainer)
        for epoch in range(4):
            for _ in range(2):
                time.now += seconds
                trainer.optimizer.step()
            recorder.measured(trainer, Measurement(epoch, "train", {}, {}))
            time.now += 100.0
    assert len(trainers[0].optimizer._optimizer_step_post_hooks) == 1
    recorder.end(0)
    assert not trainers[0].optimizer._optimizer_step_post_hooks
    found = read_record(tmp_path / "run.jsonl")
    assert found is not None
    assert "another model" in found.notes
    assert found.step_time == pytest.approx(1.0)


@pytest.mark.parametrize("value", ['"x"', "NaN", "-1", "[1]"])
@pytest.mark.parametrize("key", ["step_time", "memory"])
def test_a_cost_that_no_run_wrote_is_damage(key: str, value: str, tmp_path: Path) -> None:
    other = {"step_time": "memory", "memory": "step_time"}[key]
    file = tmp_path / "run.jsonl"
    file.write_text(f'{{"event": "cost", "{other}": 1, "{key}": {value}}}\n', encoding="utf-8")
    with pytest.raises(Damaged):
        read_record(file)


def test_a_record_without_a_cost_is_read(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    recorder = Recorder(file)
    recorder.write("started", after=0.1, search="")
    recorder.end(0)
    found = read_record(file)
    assert found is not None
    assert (found.step_time, found.memory) == (None, None)
