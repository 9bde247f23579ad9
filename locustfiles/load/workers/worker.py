"""A Locust worker: runs its part of each run that the master starts; the master judges it."""

import logging
import os
from pathlib import Path
from typing import Any

from locustfiles.load.clients.user_roster import Run, Users
from locustfiles.load.workers.messages import AnyToWorker, Channel, PrepareRun
from locustfiles.load.workers.worker_run import WorkerRun

log = logging.getLogger("stormgate")


class Worker(Users):
    """The runs of one Locust worker, one after another."""

    def __init__(self, environment: Any) -> None:
        super().__init__()
        self._environment = environment
        self._run: WorkerRun | None = None
        self._run_id = ""
        self._channel = Channel(environment.runner, self._hear, is_master=False)
        # Keep the worker's own targets file: the master's options replace its parsed options later.
        self._targets_file = Path(environment.parsed_options.targets) if environment.parsed_options.targets else None
        environment.process_exit_code = 0  # the verdict is the master's

    def run_of_users(self) -> Run | None:
        """See `Users`."""
        return self._run

    @property
    def is_run_over(self) -> bool:
        """See `Users`."""
        return self._run is None or self._run.is_over

    def stop(self, because: str) -> None:
        """End this worker: tell the master and send the remaining observations."""
        if self._run is not None:
            self._run.stop(because)
            self._run.join()

    def _hear(self, master: str, run_id: str, said: AnyToWorker) -> None:
        if isinstance(said, PrepareRun):
            self._begin(run_id, said)
        elif self._run is not None and run_id == self._run_id:
            self._run.hear(said)

    def _begin(self, run_id: str, what: PrepareRun) -> None:
        before, self._run_id = self._run, run_id
        self._clients.clear()
        log.info("run %s begins here as %s (process %d)", run_id, what.worker, os.getpid())
        self._run = WorkerRun(what, self._targets_file, self._report, lambda said: self._channel.send(run_id, said))
        self._run.begin()
        if before is not None:
            before.stop("another run began")
            before.replaced.set()

    def _report(self, kind: str, name: str, ms: float, error: str) -> None:
        """See `Conductor`."""
        stats = self._environment.stats
        stats.log_request(kind, name, ms, 0)
        if error:
            stats.log_error(kind, name, error)
