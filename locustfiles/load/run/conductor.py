"""Connects Locust to drill runs: starts a run with each test, turns users into its clients, judges it at the end."""

import logging
from typing import Any, Literal

import gevent
from locust import User
from locust.runners import MasterRunner, WorkerRunner
from rich.console import Console

from drills.judging import gates
from drills.judging.checks.verdicts import RunVerdict
from drills.reports import report
from locustfiles.load.clients.user_roster import Users
from locustfiles.load.run import verdict as verdicts
from locustfiles.load.run.capacity_ramp import CapacityRamp
from locustfiles.load.run.drill_run import DrillRun
from locustfiles.load.run.options import Plan, plan_of
from locustfiles.load.run.verdict import Provisional, RunFolder
from locustfiles.load.workers.messages import AnyFromWorker, Channel, Send
from locustfiles.load.workers.worker import Worker
from sim.base.errors import StormgateError, UsageError
from sim.base.exit_codes import ExitCode

log = logging.getLogger("stormgate")
_NO_RUN = "no run is active; start one first."


class Conductor(Users[DrillRun]):
    """The runs of one Locust process; each test is a run with its own folder and verdict."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        is_master = isinstance(environment.runner, MasterRunner)
        self._channel = Channel(environment.runner, self._receive, is_master=True) if is_master else None
        self.folder: RunFolder | None = None
        self.verdict: RunVerdict | None = None  # of the last run; None during a run
        self.judged: list[RunVerdict] = []  # of all runs so far
        self.refusal = ""  # why the last test could not start or be judged
        self.ramps = False  # whether a green run is followed by a larger run
        self.capacity_ramp: CapacityRamp | None = None
        self.is_expected = True  # the next tick starts a run
        self._greenlet: gevent.Greenlet[[], None] | None = None

    # --- Locust's side ------------------------------------------------------------------------------

    def expect_run(self) -> None:
        """Start a run with the next tick."""
        self.is_expected = True

    def tick(self) -> tuple[int, float] | tuple[int, float, list[type[User]]] | None:
        """Return number of users, spawn rate and user classes; None when no run is left."""
        if self.is_expected:
            self.is_expected = False
            if not self._begin():
                return None
        if self.run is None or (self.is_over and not self._begin_next()):
            return None
        clients = self.run.plan.drill.fleet.clients
        if self._channel is not None:  # a master publishes the events itself
            return clients, float(clients), [each for each in self._environment.user_classes if not each.fixed_count]
        return clients + 1, float(clients + 1)  # spawn at once: each client connects at its own time

    def stop(self, because: str) -> None:
        """End the current run early, and wait until it is judged."""
        if self._greenlet is not None and not self.is_over and self.run is not None:
            self.run.stop(because)
            self._greenlet.join()

    # --- operator's buttons -------------------------------------------------------------------------

    def storm_now(self) -> str:
        """Inject the next fault of the current run now; returns a sentence. Raises `UsageError` without one."""
        return f"Injected: {self._current_run().storm_now()}."

    def revert_now(self) -> str:
        """Revert the active faults of the current run now; returns a sentence. Raises `UsageError` without any."""
        self._current_run().revert_now()
        return "Reverting the active faults."

    def why_no(self, what: Literal["storm", "revert"]) -> str:
        """Return why a button is disabled, as a sentence; empty if it is enabled."""
        if self.run is None or self.is_over:
            return _NO_RUN
        return self.run.why_no_storm() if what == "storm" else self.run.why_no_revert()

    def _current_run(self) -> DrillRun:
        if self.run is None or self.is_over:
            raise UsageError(_NO_RUN)
        return self.run

    # --- runs ---------------------------------------------------------------------------------------

    def provisional(self) -> list[Provisional]:
        """Return the provisional states of the run's checks."""
        if self.run is None:
            return []
        return verdicts.provisional(self.run.plan.drill.checks, self._thresholds, self.run.live)

    def _begin(self) -> bool:
        """Start the run, or the first run of a ramp, that the options describe."""
        self.capacity_ramp, self.refusal = None, ""
        self._environment.process_exit_code = ExitCode.TOOL  # until a verdict exists
        options = self._environment.parsed_options
        try:
            self.capacity_ramp = CapacityRamp(options) if self.ramps else None
            plan = plan_of(options)
        except StormgateError as error:
            self._fail(error)
            return False
        return self._begin_run(plan)

    def _begin_next(self) -> bool:
        """Start the next run of a capacity ramp, if there is one."""
        if self.capacity_ramp is None or self.run is None or self.verdict is None:
            return False
        plan = self.capacity_ramp.after(self.run.plan, self.verdict)
        log.info("capacity ramp: %s", f"next {plan.drill.fleet.clients} clients" if plan else self.capacity_ramp.in_words())
        self._environment.process_exit_code = self.capacity_ramp.exit_code
        return plan is not None and self._begin_run(plan)

    def _begin_run(self, plan: Plan) -> bool:
        """Start a run; returns False, with the reason logged, if it cannot start."""
        before, self.run, self.folder, self.verdict, self.is_over = self.run, None, None, None, False
        self._environment.process_exit_code = ExitCode.TOOL
        self._clients.clear()
        try:
            self._prepare(plan)
        except Exception as error:  # otherwise Locust would wait for this test forever
            self._fail(error)
            self._abandon(self.refusal)
            return False
        except BaseException:  # the test was stopped
            self._abandon("it was interrupted")
            raise
        self._greenlet = gevent.spawn(self._follow)
        if before is not None:
            before.replaced.set()
        return True

    def _prepare(self, plan: Plan) -> None:
        self._thresholds = gates.load_thresholds(plan.thresholds)
        self.folder = verdicts.open_folder(plan)
        run_id = self.folder.run_dir.name
        workers, send = self._workers(run_id)
        self._run_id = run_id
        self.run = DrillRun(plan, self.folder.folder, run_id, self._report, lambda text: log.info("%s", text), workers, send)
        self.run.prepare()

    def _workers(self, run_id: str) -> tuple[list[str], Send]:
        """Return the ids of the workers that are ready, and how to send to one; none for a single process."""
        if self._channel is None:
            return [], lambda worker, message: None
        channel, nodes = self._channel, self._environment.runner.clients
        ids = [each.id for state in ("ready", "running", "spawning") for each in getattr(nodes, state)]
        if not ids:
            raise UsageError("no worker has connected; start some with --worker --master-host, or use --processes.")
        return ids, lambda worker, message: channel.send(run_id, message, worker)

    def _receive(self, worker: str, run_id: str, message: AnyFromWorker) -> None:
        if self.run is not None and run_id == self._run_id:
            self.run.receive(worker, message)

    def _abandon(self, because: str) -> None:
        """Clean up after a run that did not start."""
        if self.run is not None:
            self.run.stop(because)
            self.run.close()
            self.run = None
        if self.folder is not None:
            self.folder.mark.remove()

    def _follow(self) -> None:
        """Run all phases and judge the run. Any failure ends the test with a non-zero exit code."""
        assert self.run is not None
        assert self.folder is not None
        try:
            self.run.run_phases()
            verdict = verdicts.conclude(self.folder)
        except Exception as error:
            self._fail(error)
        else:
            self._environment.process_exit_code = verdict.exit_code
            self.verdict = verdict
            self.judged.append(verdict)
            report.print_verdict(verdict, Console(highlight=False))
            log.info("%s; evidence: %s", verdicts.in_words(verdict), self.folder.run_dir)
        finally:
            self.is_over = True

    def _fail(self, error: Exception) -> None:
        if isinstance(error, StormgateError):
            self.refusal, exit_code = str(error), error.exit_code
        else:
            self.refusal, exit_code = f"a defect of stormgate itself ({type(error).__name__}: {error}).", ExitCode.TOOL
        self._environment.process_exit_code = exit_code
        log.error("%s", self.refusal)


def of(environment: Any) -> "Conductor | Worker":
    """Return this process's conductor or worker."""
    if not hasattr(environment, "stormgate"):
        is_worker = isinstance(environment.runner, WorkerRunner)
        environment.stormgate = Worker(environment) if is_worker else Conductor(environment)
    found: Conductor | Worker = environment.stormgate
    return found


def conductor_of(environment: Any) -> Conductor:
    """Return the conductor of a process that is not a worker."""
    found = of(environment)
    assert isinstance(found, Conductor)
    return found
