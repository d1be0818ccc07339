"""The runs of a search, each identified by what it trains."""

from __future__ import annotations

from libmtl_recon_search.child import Job
from libmtl_recon_search.config import Config
from libmtl_recon_search.folder import SearchFolder
from libmtl_recon_search.plan import Flags, Plan
from libmtl_recon_search.space import SearchSpace


class Jobs:
    """Makes the jobs of one search.

    What tells a run from others of its kind has no path of this machine in it, and is therefore
    the same for every process that works on the search.

    Args:
        config: The search.
        folder: Where the runs' records are kept.
        space: Which flags there are.
    """

    def __init__(self, config: Config, folder: SearchFolder, space: SearchSpace) -> None:
        self._config, self._folder, self.space = config, folder, space

    def describe(self) -> Job:
        """A run that only says which flags the script has."""
        return self._folder.job(
            "describe",
            [self._config.arguments],
            self._config.script,
            tuple(self._config.arguments),
            describe=True,
        )

    def plan(self, plan: Plan, seed: int) -> Job:
        """The training of a plan."""
        # Known by its layers, not by S and K: others may name the same ones.
        identity = [*self._common(plan.weighting), *plan.identity, seed]
        return self._folder.job(
            "plan", identity, self._config.script, self.space.line(plan, seed=seed)
        )

    def single(self, task: str, flags: Flags, seed: int) -> Job:
        """The training of one task alone."""
        # Alone a task needs no weighting, so EW's own flags stay out.
        plan = Plan("EW", flags=flags)
        identity = [*self._common(None), task, plan.identity, seed]
        line = self.space.line(plan, seed=seed, own=False)
        return self._folder.job("single", identity, self._config.script, line, task=task)

    def score(self) -> Job:
        """The training in which conflicts are counted."""
        score, seed = self._config.score, self._config.seed
        plan = self.space.untuned(score.weighting)
        identity = [
            *self._common(score.weighting),
            score.model_dump(mode="json"),
            plan.identity,
            seed,
        ]
        return self._folder.job(
            "score",
            identity,
            self._config.script,
            self.space.line(plan, score.flags, seed=seed),
            profile=self._folder.profile,
            steps=score.steps,
            reuse=score.reuse,
        )

    def start(self, line: tuple[str, ...], scored: bool) -> Job:
        """A run that ends when the network is built.

        Args:
            line: The command line.
            scored: Whether its layers are counted as scoring does.
        """
        steps = self._config.score.steps if scored else None
        identity = [*line, scored]
        return self._folder.job(
            "start", identity, self._config.script, line, start=True, steps=steps
        )

    def _common(self, weighting: str | None) -> list[object]:
        return [self._config.arguments, self.space.fixed(weighting)]
