"""Run several jobs at a time."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from libmtl_recon_search.child import Job
from libmtl_recon_search.database.shared_runner import AnyRunner
from libmtl_recon_search.process import Follow
from libmtl_recon_search.progress import Phase
from libmtl_recon_search.result import Result


def run_together(
    runner: AnyRunner,
    jobs: Sequence[Job],
    workers: int,
    phase: Phase,
    follow: Follow = lambda _: True,
) -> list[Result]:
    """Run jobs, one per worker at a time, and return the results in the jobs' order.

    Args:
        runner: The runner; it is stopped if a job fails.
        jobs: The jobs; those of one identity are run once.
        workers: The number of jobs that run at a time.
        phase: The progress bar, advanced by each job that has ended.
        follow: A function that is called with each new partial result; false ends the run.
    """
    left = list({job.events: job for job in jobs}.values())
    results: dict[Path, Result] = {}
    running: dict[Future[Result], Job] = {}
    with ThreadPoolExecutor(workers) as pool:
        try:
            while left or running:
                while left and len(running) < workers:
                    # Jobs that other workers run are waited for last.
                    job = next((j for j in left if not runner.busy(j)), left[0])
                    left.remove(job)
                    running[pool.submit(runner.run, job, follow)] = job
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    results[running.pop(future).events] = future.result()
                    phase.done()
        except BaseException:
            runner.stop()
            pool.shutdown(cancel_futures=True)
            raise
    return [results[job.events] for job in jobs]
