"""Whole trainings of one script, each run once and kept, to be compared with one another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from libmtl_recon_search.child import Job
from libmtl_recon_search.comparing import Performance, compare
from libmtl_recon_search.folder import SearchFolder
from libmtl_recon_search.process import Interrupted, RunError, Runner
from libmtl_recon_search.progress import Display
from libmtl_recon_search.result import Result
from libmtl_recon_search.together import run_together
from libmtl_recon_search.trouble import explained, set_aside

from libmtl_recon import ConflictProfile, Layer, ReconError, UsageError
from libmtl_recon.files import write_atomically
from libmtl_recon.problems.data_folder import data_root
from libmtl_recon.texts import did_you_mean

_REFUSED = "failed with exit status 2"  # by the script's argparse, or by this project


@dataclass(frozen=True)
class Training:
    """A training of the script.

    Attributes:
        weighting: The name of the weighting in LibMTL.
        flags: Further words of the command line, for this weighting alone.
        layers: The layers that are split; empty for sharing all.
        seed: The seed (``--seed``).
        task: The only task that is trained; None for all.
        score_every: Count the conflicts in each n-th step; 0 counts none.
    """

    weighting: str = "EW"
    flags: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    seed: int = 0
    task: str | None = None
    score_every: int = 0

    @property
    def identity(self) -> list[object]:
        """Return what distinguishes it from other trainings of the script, as JSON."""
        scored = [self.score_every] if self.score_every else []
        words = [self.weighting, *self.flags]
        return [words, sorted(self.layers), self.seed, self.task, *scored]


@dataclass(frozen=True)
class TrainedNetwork:
    """The result of a training.

    Attributes:
        training: The training.
        result: Its measurements.
        profile: The conflicts in the layers that all tasks share; None if they were not counted.
        file: The file of that profile; None as above.
    """

    training: Training
    result: Result
    profile: ConflictProfile | None = None
    file: Path | None = None


@dataclass(frozen=True)
class Network:
    """What is known of the script's network before training.

    Attributes:
        tasks: The tasks.
        layers: The layers that all tasks share, in network order.
    """

    tasks: tuple[str, ...]
    layers: tuple[Layer, ...]


class Trainings:
    """Whole trainings of one script, in child processes, each of them once.

    What was trained is kept in a folder, where a later session finds it: after Ctrl-C or a crash
    the same calls go on where they stopped. Trainings differ by the script's text, the versions of
    the packages, the number of threads, the folder in ``LIBMTL_RECON_DATA`` and the command line,
    so one folder can hold any: what changes one of these leaves the earlier ones as they are.

    Args:
        script: A path, or the name of a built-in problem.
        arguments: Its command line, without weighting, architecture and seed.
        folder: The folder of all files; it is created if it is missing.
        architecture: LibMTL's architecture whose shared layers are split.
        workers: The number of trainings at a time.
        threads: The number of PyTorch's threads in each.
        asked_to_stop: A function that returns whether to end; called repeatedly.

    Example:
        >>> trainings = Trainings("multidigits", ["--epochs", "2"], "runs/digits")
        >>> with trainings.opened():  # doctest: +SKIP
        ...     network = trainings.look([("EW", ())])
        ...     (joint,) = trainings.train([Training(score_every=1)], "joint training")
        >>> joint.profile.layers(-0.1, 5)  # doctest: +SKIP
        ['bn1', 'block1.bn1', ...]
    """

    def __init__(
        self,
        script: str,
        arguments: Sequence[str],
        folder: str | Path,
        *,
        architecture: str = "HPS",
        workers: int = 1,
        threads: int = 1,
        asked_to_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        # The script may change the working folder.
        self.script = str(Path(script).absolute()) if Path(script).is_file() else script
        self.arguments = tuple(arguments)
        self.folder = SearchFolder(Path(folder))
        self.architecture, self.workers = architecture, workers
        self._threads, self._asked_to_stop = threads, asked_to_stop
        self._runner: Runner
        self._display: Display

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Lock the folder, and show the progress, inside the ``with`` block.

        Raises:
            ReconError: The folder cannot be used.
            UsageError: There is no such script.
            KeyboardInterrupt: It was asked to stop.
        """
        with ExitStack() as stack:
            self.folder.know_script(self.script, self._threads)
            self._display = stack.enter_context(Display())
            stack.enter_context(explained(self.folder.path))
            stack.enter_context(self.folder.locked("command"))
            self._runner = Runner(
                self._threads, say=self._display.line, asked_to_stop=self._asked_to_stop
            )
            try:
                yield
            except Interrupted:
                raise KeyboardInterrupt from None

    def look(self, weightings: Sequence[tuple[str, tuple[str, ...]]]) -> Network:
        """Start the script once per weighting, up to its network, without training.

        Args:
            weightings: Names of weightings, each with the flags for it alone.

        Raises:
            UsageError: There is no such weighting, or a flag is refused.
            ReconError: The script does not start, or trains fewer than two tasks.
        """
        plain = self._start([Training()], "the script")[0]
        if len(plain.tasks) < 2:
            raise ReconError(
                f"{self.script} trains one task, {plain.tasks[0]!r}, and only the gradients of two "
                "can conflict. Give a script that trains at least two tasks together."
            )
        for name, _ in weightings:
            if name not in plain.weightings:
                raise UsageError(
                    "weightings",
                    "must be names of installed weightings",
                    name,
                    f"{did_you_mean(name, plain.weightings)}Known names: "
                    f"{', '.join(plain.weightings)}.",
                )
        others = [
            Training(name, flags) for name, flags in weightings if (name, flags) != ("EW", ())
        ]
        if others:
            self._start(others, "its weightings")
        return Network(plain.tasks, plain.layers)

    def train(self, wanted: Sequence[Training], title: str) -> list[TrainedNetwork]:
        """Run those of the trainings that were not run yet, and return the results of all.

        Args:
            wanted: The trainings; equal ones are run once.
            title: The title of the progress bar.

        Raises:
            ReconError: A training failed; the message names its log.
        """
        jobs = [self._job(training) for training in wanted]
        for job in jobs:
            if job.profile is not None and self._profile(job.profile) is None:
                job.events.unlink(missing_ok=True)
        with self._display.phase(title, len({job.events for job in jobs})) as phase:
            results = run_together(self._runner, jobs, self.workers, phase)
        return [
            self._trained(training, job, result)
            for training, job, result in zip(wanted, jobs, results, strict=True)
        ]

    def compare(
        self, networks: Sequence[TrainedNetwork], base: Sequence[TrainedNetwork]
    ) -> list[Performance]:
        """Compare networks with those of the same seed that were trained for one task each.

        Args:
            networks: The networks.
            base: The networks of single tasks, or one network of all tasks in their place.

        Raises:
            ReconError: The script measures nothing by which they could be compared.
        """
        return compare(
            self.script,
            [network.result for network in networks],
            [network.result for network in base],
            self._display.line,
        )

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        self._display.line(text)

    def _start(self, trainings: Sequence[Training], title: str) -> list[Result]:
        """Start the script up to its network, whose layers are counted as scoring does."""
        jobs = [
            self.folder.job(
                "start", self._identity(one), self.script, self._line(one), start=True, steps=1
            )
            for one in trainings
        ]
        with self._display.phase(f"checking {title}", len(jobs)) as phase:
            try:
                return run_together(self._runner, jobs, self.workers, phase)
            except RunError as error:
                if error.reason.startswith(_REFUSED):
                    error.exit_status = UsageError.exit_status
                raise

    def _job(self, training: Training) -> Job:
        single = training.task is not None
        kind = "single" if single else "split" if training.layers else "shared"
        job = self.folder.job(
            kind,
            self._identity(training),
            self.script,
            self._line(training),
            task=training.task,
            every=max(training.score_every, 1),
            reuse=False,
            cached=False,
        )
        if training.score_every == 0:
            return job
        return replace(job, profile=job.events.with_suffix(".profile.json"))

    def _identity(self, training: Training) -> list[object]:
        # The script, the versions and the data are in the names of the files as well, so that one
        # folder can hold the runs of several.
        made_of = [self.folder.runs_of, str(data_root().absolute())]
        return [*made_of, list(self.arguments), self.architecture, *training.identity]

    def _line(self, training: Training) -> tuple[str, ...]:
        words = [*self.arguments, "--weighting", training.weighting, *training.flags]
        if training.layers:
            words += ["--arch", "Recon", "--recon_k", str(len(training.layers))]
            words += ["--recon_layers", str(self._written(training.layers))]
            if self.architecture != "HPS":
                words += ["--recon_base", self.architecture]
        else:
            words += ["--arch", self.architecture]
        return (*words, "--seed", str(training.seed))

    def _written(self, layers: Sequence[str]) -> Path:
        """Write layers to a file that the script can read, and return the file."""
        text = json.dumps(list(layers))
        name = hashlib.sha256(text.encode()).hexdigest()[:12]
        file = self.folder.path / "layers" / f"{name}.json"
        if not file.is_file():
            file.parent.mkdir(exist_ok=True)
            write_atomically(file, text)
        return file

    def _trained(self, training: Training, job: Job, result: Result) -> TrainedNetwork:
        if "another model" in result.notes:
            self.say(
                f"Warning: {self.script} trains several models; only the first one is scored and "
                "compared."
            )
        if job.profile is None:
            return TrainedNetwork(training, result)
        profile = self._profile(job.profile)
        if profile is None:
            raise ReconError(
                f"{self.script} trained no step in which conflicts could be counted. Make it train "
                "for at least one epoch."
            )
        return TrainedNetwork(training, result, profile, job.profile)

    def _profile(self, file: Path) -> ConflictProfile | None:
        """Return the profile in a file, if there is one; what cannot be read is renamed."""
        try:
            return ConflictProfile.from_json(file.read_text(encoding="utf-8"), str(file))
        except FileNotFoundError:
            return None
        except (ReconError, UnicodeDecodeError):
            aside = set_aside(file)
            self.say(
                f"{file} is damaged. It was renamed to {aside.name}, and the training is repeated."
            )
            return None
