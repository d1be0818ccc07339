"""The runs of a search, each identified by what it trains."""

from __future__ import annotations

from libmtl_recon_search.child import Job
from libmtl_recon_search.config import Config
from libmtl_recon_search.folder import SearchFolder
from libmtl_recon_search.plan import Flags, Plan
from libmtl_recon_search.space import SearchSpace


class Jobs:
    """Factory of the jobs of one search.

    The identity of a run contains no path of this machine, and is therefore the same for every
    process that works on the search.

    Args:
        config: The configuration.
        folder: The folder of the runs' records.
        space: The search space with the flags.
    """

    def __init__(self, config: Config, folder: SearchFolder, space: SearchSpace) -> None:
        self._config, self._folder, self.space = config, folder, space

    def describe(self) -> Job:
        """Return a run that only reports the script's flags."""
        return self._folder.job(
            "describe",
            [self._config.arguments],
            self._config.script,
            tuple(self._config.arguments),
            describe=True,
        )

    def plan(self, plan: Plan, seed: int) -> Job:
        """Return the training of a plan."""
        # Identified by its layers, not by S and K, since others may give the same layers.
        identity = [*self._common(plan.weighting), *plan.identity, seed]
        return self._folder.job(
            "plan", identity, self._config.script, self.space.line(plan, seed=seed)
        )

    def single(self, task: str, flags: Flags, seed: int) -> Job:
        """Return the training of one task alone."""
        # A single task needs no weighting, so the flags of EW are left out.
        plan = Plan("EW", flags=flags)
        identity = [*self._common(None), task, plan.identity, seed]
        line = self.space.line(plan, seed=seed, own=False)
        return self._folder.job("single", identity, self._config.script, line, task=task)

    def score(self) -> Job:
        """Return the scoring run."""
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
        """Return a run that ends when the network is built.

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
