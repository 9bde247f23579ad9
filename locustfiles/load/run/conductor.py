"""Between Locust and a drill's run: begins one when a test starts, has users be its clients, judges it when it is over."""

import logging
from typing import Any, Literal

import gevent
from locust import User
from locust.runners import MasterRunner, WorkerRunner
from rich.console import Console

from drills.judging import gates
from drills.judging.checks.verdicts import RunVerdict
from drills.reports import report
from locustfiles.load.clients.user_roster import Run, Users
from locustfiles.load.run import verdict as verdicts
from locustfiles.load.run.capacity_ramp import CapacityRamp
from locustfiles.load.run.drill_run import DrillRun
from locustfiles.load.run.options import Plan, plan_of
from locustfiles.load.run.verdict import Provisional, RunFolder
from locustfiles.load.workers.messages import AnyFromWorker, Channel
from locustfiles.load.workers.remote import Send, nobody_to_tell
from locustfiles.load.workers.worker import Worker
from sim.base.errors import StormgateError, UsageError

log = logging.getLogger("stormgate")
_EXIT_INTERNAL = 4
_NO_RUN = "no run is going on; start one first."


class Conductor(Users):
    """Of one Locust process; every test it starts is a run with a folder and a verdict of its own."""

    def __init__(self, environment: Any) -> None:
        super().__init__()
        self._environment = environment
        is_master = isinstance(environment.runner, MasterRunner)
        self._channel = Channel(environment.runner, self._hear, is_master=True) if is_master else None
        self.run: DrillRun | None = None  # the one that goes on, or the last one
        self.folder: RunFolder | None = None
        self.verdict: RunVerdict | None = None  # of the last run; None while one goes on
        self.judged: list[RunVerdict] = []  # of all runs until now
        self.refusal = ""  # why the last test could not begin, or could not be judged
        self.ramps = False  # whether a green run is followed by a larger one
        self.capacity_ramp: CapacityRamp | None = None
        self._run_id = ""
        self.is_over = False  # the run is judged, or could not be
        self.is_expected = True  # the next tick begins a run
        self._course: gevent.Greenlet[[], None] | None = None

    # --- Locust's side ------------------------------------------------------------------------------

    def expect_run(self) -> None:
        """The next tick begins a run."""
        self.is_expected = True

    def tick(self) -> tuple[int, float] | tuple[int, float, list[type[User]]] | None:
        """Users, how many of them a second, and which; None when there is nothing more to do."""
        if self.is_expected:
            self.is_expected = False
            if not self._begin():
                return None
        if self.run is None or (self.is_over and not self._begin_next()):
            return None
        clients = self.run.plan.drill.fleet.clients
        if self._channel is not None:  # a master publishes itself
            return clients, float(clients), [each for each in self._environment.user_classes if not each.fixed_count]
        return clients + 1, float(clients + 1)  # at once: each arrives at its own moment

    def stop(self, because: str) -> None:
        """End a run that goes on before its time, and wait until it is judged."""
        if self._course is not None and not self.is_over and self.run is not None:
            self.run.stop(because)
            self._course.join()

    # --- an operator's side -------------------------------------------------------------------------

    def storm_now(self) -> str:
        """The next fault of the run that goes on begins now; says which. Raises `UsageError` where there is none."""
        return self._run_that_goes_on().storm_now()

    def revert_now(self) -> None:
        """Take back now what the run that goes on has broken. Raises `UsageError` where there is nothing."""
        self._run_that_goes_on().revert_now()

    def why_no(self, what: Literal["storm", "revert"]) -> str:
        """Why that cannot be done now, in a sentence; empty if it can."""
        if self.run is None or self.is_over:
            return _NO_RUN
        return self.run.why_no_storm() if what == "storm" else self.run.why_no_revert()

    def _run_that_goes_on(self) -> DrillRun:
        if self.run is None or self.is_over:
            raise UsageError(_NO_RUN)
        return self.run

    # --- users --------------------------------------------------------------------------------------

    def run_of_users(self) -> Run | None:
        """See `Users`."""
        return self.run

    @property
    def is_run_over(self) -> bool:
        """See `Users`."""
        return self.is_over

    # --- runs ---------------------------------------------------------------------------------------

    def provisional(self) -> list[Provisional]:
        """How the run's checks look now."""
        if self.run is None:
            return []
        return verdicts.provisional(self.run.plan.drill.checks, self._thresholds, self.run.live)

    def _begin(self) -> bool:
        """Begin the run, or the first one, that the options ask for."""
        self.capacity_ramp, self.refusal = None, ""
        self._environment.process_exit_code = _EXIT_INTERNAL  # until there is a verdict
        options = self._environment.parsed_options
        try:
            self.capacity_ramp = CapacityRamp(options) if self.ramps else None
            plan = plan_of(options)
        except StormgateError as error:
            self._fail(str(error), error.exit_code)
            return False
        return self._begin_run(plan)

    def _begin_next(self) -> bool:
        """Begin the next run of a climb, if there is one."""
        if self.capacity_ramp is None or self.run is None or self.verdict is None:
            return False
        plan = self.capacity_ramp.after(self.run.plan, self.verdict)
        log.info("climb: %s", f"next {plan.drill.fleet.clients} clients" if plan else self.capacity_ramp.in_words())
        self._environment.process_exit_code = self.capacity_ramp.exit_code
        return plan is not None and self._begin_run(plan)

    def _begin_run(self, plan: Plan) -> bool:
        """Begin a run; if it cannot be, say why in one sentence."""
        before, self.run, self.folder, self.verdict, self.is_over = self.run, None, None, None, False
        self._environment.process_exit_code = _EXIT_INTERNAL
        self._clients.clear()
        try:
            self._prepare(plan)
        except StormgateError as error:
            self._fail(str(error), error.exit_code)
            self._abandon(str(error))
            return False
        except Exception as error:  # Locust would take a test for one that goes on for ever
            self._fail(f"a defect of stormgate itself ({type(error).__name__}: {error}).", _EXIT_INTERNAL)
            self._abandon(self.refusal)
            return False
        except BaseException:  # killed by who stops the test
            self._abandon("it was interrupted")
            raise
        self._course = gevent.spawn(self._follow)
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
        """Those that are ready now, and how to say something to one; nobody in a process that does all by itself."""
        if self._channel is None:
            return [], nobody_to_tell
        channel, nodes = self._channel, self._environment.runner.clients
        ids = [each.id for state in ("ready", "running", "spawning") for each in getattr(nodes, state)]
        if not ids:
            raise UsageError("no worker has come; start some with --worker --master-host, or use --processes.")
        return ids, lambda worker, said: channel.send(run_id, said, worker)

    def _hear(self, worker: str, run_id: str, said: AnyFromWorker) -> None:
        if self.run is not None and run_id == self._run_id:
            self.run.hear(worker, said)

    def _abandon(self, because: str) -> None:
        """Leave nothing behind of a run that did not begin."""
        if self.run is not None:
            self.run.stop(because)
            self.run.close()
            self.run = None
        if self.folder is not None:
            self.folder.mark.remove()

    def _follow(self) -> None:
        """The run's whole course, and its verdict; whatever goes wrong, the test ends and the exit code is no go."""
        assert self.run is not None
        assert self.folder is not None
        try:
            self.run.follow_course()
            verdict = verdicts.conclude(self.folder)
        except StormgateError as error:
            self._fail(str(error), error.exit_code)
        except Exception as error:
            self._fail(f"a defect of stormgate itself ({type(error).__name__}: {error}).", _EXIT_INTERNAL)
        else:
            self._environment.process_exit_code = verdict.exit_code
            self.verdict = verdict
            self.judged.append(verdict)
            report.print_verdict(verdict, Console(highlight=False))
            log.info("%s; evidence: %s", verdicts.in_words(verdict), self.folder.run_dir)
        finally:
            self.is_over = True

    def _fail(self, sentence: str, exit_code: int) -> None:
        self.refusal = sentence
        self._environment.process_exit_code = exit_code
        log.error("%s", sentence)

    def _report(self, kind: str, name: str, ms: float, error: str) -> None:
        """Straight into Locust's tables: an event fired for each delivery would cost more than the delivery."""
        stats = self._environment.stats
        stats.log_request(kind, name, ms, 0)
        if error:
            stats.log_error(kind, name, error)


def of(environment: Any) -> "Conductor | Worker":
    """What stands between Locust and a run in this process, whichever part it has."""
    if not hasattr(environment, "stormgate"):
        is_worker = isinstance(environment.runner, WorkerRunner)
        environment.stormgate = Worker(environment) if is_worker else Conductor(environment)
    found: Conductor | Worker = environment.stormgate
    return found


def conductor_of(environment: Any) -> Conductor:
    """The conductor of a process that is no worker."""
    found = of(environment)
    assert isinstance(found, Conductor)
    return found
