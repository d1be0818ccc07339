"""Runs that are trained by several processes, started by torchrun's agent.

A rank is one of these processes. All are new interpreters, as with torchrun: a process that was
forked from one that has queried CUDA devices cannot use them.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
import threading
import time
import uuid
from pathlib import Path

from libmtl_recon_search.child import Job, measure, prepared
from libmtl_recon_search.guard import leave
from libmtl_recon_search.recorder import give_up

_LOOK = 0.5  # seconds between a rank's checks that the agent is alive
# Modules are imported from the paths of the search, as in a run of one process, and not first from
# the working folder, as by Python's default.
_RANK = "import sys; sys.path[:] = {path!r}; from libmtl_recon_search.ranks import main; main()"
_PYTHON = (sys.executable,)


def run_on_ranks(job: Job) -> None:
    """Run a job on several ranks; the target of the child process.

    The exit status is that of the first rank that fails. Standard output and error of all ranks go
    to the run's log.
    """
    with prepared(job):
        code = _launch(job)
    if code != 0:
        leave(code)


def _launch(job: Job) -> int:
    """Start the ranks, wait, and return the exit code of the first that fails, otherwise 0."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # The agent's log would hide the reason that a rank reports.
    logging.disable(logging.CRITICAL)
    file = job.scratch / "job"
    try:
        job.scratch.mkdir(exist_ok=True)
        file.write_bytes(pickle.dumps(job))
    except OSError as error:
        give_up(error)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=job.ranks,
        run_id=uuid.uuid4().hex,
        # A separate free port for each run, as with torchrun --standalone.
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=str(job.scratch)),
    )
    program, *words = (*_PYTHON, "-c", _RANK.format(path=sys.path), file, os.getpid())
    try:
        elastic_launch(config, program)(*words)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode
    except SignalException as error:
        return -int(error.sigval)
    return 0


def main() -> None:
    """Run one rank; the arguments are the file of the job and the process id of the agent."""
    file, agent = sys.argv[1:]
    _end_with(int(agent))
    job = pickle.loads(Path(file).read_bytes())
    sys.exit(measure(job, first=os.environ["RANK"] == "0"))


def _end_with(parent: int) -> None:
    """End this process when its parent ends, even if the parent is killed."""
    if not hasattr(os, "fork"):
        return  # on Windows, the Python of a virtual environment has another parent

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()
