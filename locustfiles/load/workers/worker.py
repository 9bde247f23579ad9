"""Between Locust and a worker's part of a run: the master says when one begins, has users be its clients, and judges it."""

import logging
import os
from pathlib import Path
from typing import Any

from locustfiles.load.clients.user_roster import Run, Users
from locustfiles.load.workers.messages import AnyToWorker, Begin, Channel
from locustfiles.load.workers.worker_run import WorkerRun

log = logging.getLogger("stormgate")


class Worker(Users):
    """Of one Locust worker; runs come and go."""

    def __init__(self, environment: Any) -> None:
        super().__init__()
        self._environment = environment
        self._run: WorkerRun | None = None
        self._run_id = ""
        self._channel = Channel(environment.runner, self._hear, is_master=False)
        # A worker has a targets file of its own; what it is told later is the master's.
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
        """This worker ends: tell the master, if it does not know already, and hand over what was observed."""
        if self._run is not None:
            self._run.stop(because)
            self._run.join()

    def _hear(self, master: str, run_id: str, said: AnyToWorker) -> None:
        if isinstance(said, Begin):
            self._begin(run_id, said)
        elif self._run is not None and run_id == self._run_id:
            self._run.hear(said)

    def _begin(self, run_id: str, what: Begin) -> None:
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
