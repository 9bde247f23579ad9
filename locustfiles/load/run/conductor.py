"""Connects Locust to drill runs: starts a run with each test, turns users into its clients, judges it at the end."""

import logging
from typing import Any, Literal

import gevent
from gevent.event import Event
from locust import User
from locust.runners import MasterRunner, WorkerRunner
from rich.console import Console

from drills.judging import gates
from drills.judging.checks.verdicts import RunVerdict
from drills.reports import report
from drills.runs import results
from locustfiles.load.clients.locust_tables import KINDS, add_outcome
from locustfiles.load.clients.user_roster import Users
from locustfiles.load.run import room, shares
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
_TRAFFIC = {"connect_done": "client connected", "published": "event was published", "applied": "event was delivered"}
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
        self._is_ending = False
        self._has_begun = Event()  # the run of the current test has begun, or cannot begin
        self._has_begun.set()
        self._asked = {each: each.fixed_count for each in environment.user_classes}
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
        try:
            users = shares.users(self._asked_now, self.run.plan.drill.fleet.clients)
        except UsageError as error:
            self._fail(error)
            self.run.stop(str(error))
            return None
        for each, count in users.items():
            each.fixed_count = count  # Locust then starts exactly so many
        if (dispatcher := self._environment.runner._users_dispatcher) is not None:
            dispatcher._try_dispatch_fixed = True  # it read the counts of the run before
        total = sum(users.values())
        return total, float(total), list(users)  # spawn at once: each client connects at its own time

    @property
    def _asked_now(self) -> shares.Asked:
        """The classes of this test's users with their own `fixed_count`; a master publishes the events itself."""
        publishers = shares.of_role(self._environment.user_classes, "publisher") if self._channel is not None else []
        return {each: self._asked.get(each, 0) for each in self._environment.user_classes if each not in publishers}

    def begin_test(self) -> None:
        """Start a run with a test of our clients whose size and length Locust decides; with a drill's shape, `tick` does."""
        if not isinstance(self._environment.shape_class, Ticks) and self.has_clients:
            self.is_expected = False
            self._has_begun.clear()
            try:
                if not self._begin(follows_locust=True):
                    gevent.spawn(self._give_up)
            finally:
                self._has_begun.set()

    def _give_up(self) -> None:
        """End a test that cannot be a run."""
        runner = self._environment.runner
        (runner.quit if self._environment.web_ui is None else runner.stop)()

    @property
    def workers(self) -> int:
        """Number of workers that are connected now; 0 for a single process."""
        return len(self._environment.runner.clients.ready) if self._channel is not None else 0

    @property
    def has_clients(self) -> bool:
        """Whether clients of ours take part in the tests of this process."""
        return bool(shares.of_role(self._environment.user_classes, "client"))

    def finish(self) -> None:
        """End the current run, because Locust ends the test: early, where the drill decides on the length."""
        if self._environment.web_ui is None:
            self._has_begun.wait()  # Locust's clock began before the service was started
        if self._greenlet is not None and not self.is_over and self.run is not None:
            if not self.run.plan.follows_locust or self._is_ending:
                self.stop("it was interrupted")
                return
            self._is_ending = True
            if self._environment.web_ui is None:
                gevent.sleep(max((self._environment.parsed_options.run_time or 0) - self.run.steady_for_s, 0))
            self.run.finish()
            self._greenlet.join()

    def stop(self, because: str) -> None:
        """End the current run early, and wait until it is judged."""
        if self._greenlet is not None and not self.is_over and self.run is not None:
            self.run.stop(because)
            self._greenlet.join()

    def interrupt(self) -> None:
        """End the current run on Ctrl-C, which is how a test ends that has neither a shape nor a time."""
        if self._environment.shape_class is None and not self._environment.parsed_options.run_time:
            self.finish()
        else:
            self.stop("it was interrupted")

    def require_traffic(self) -> None:
        """Never let a test end in exit code 0 that was no run of ours, or in which somebody else's requests failed."""
        code, options = self._environment.process_exit_code, self._environment.parsed_options
        if code is None and self.has_clients and options.headless:
            log.error("no run took place: no client connected, and nothing was published or delivered.")
            self._environment.process_exit_code = ExitCode.INCONCLUSIVE
        if code == ExitCode.GO and any(each.method not in KINDS for each in self._environment.stats.errors.values()):
            log.error("requests beside the drill failed; see the table of failures.")
            self._environment.process_exit_code = options.exit_code_on_error

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

    def _begin(self, *, follows_locust: bool = False) -> bool:
        """Start the run, or the first run of a ramp, that the options describe."""
        self.capacity_ramp, self.refusal, self._is_ending = None, "", False
        self._environment.process_exit_code = ExitCode.TOOL  # until a verdict exists
        options = self._environment.parsed_options
        try:
            self.capacity_ramp = CapacityRamp(options) if self.ramps and not follows_locust else None
            publishes = not shares.of_role(self._environment.user_classes, "publisher")
            plan = plan_of(options, follows_locust=follows_locust, publishes_itself=publishes)
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
            if not plan.follows_locust:
                room.require(plan.drill.fleet.clients, self.workers)
            self._prepare(plan)
        except Exception as error:  # otherwise Locust would wait for this test forever
            self._fail(error)
            self._abandon(self.refusal)
            return False
        except BaseException:  # the test was stopped
            self.refusal = "the test was stopped before the run had begun, so nothing is known of the service."
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
            if self.run.plan.follows_locust:
                results.restate_drill(self.folder.run_dir, self.run.plan.drill)
            verdict = verdicts.conclude(self.folder)
        except Exception as error:
            self._fail(error)
        else:
            self._environment.process_exit_code = self._code(verdict)
            self.verdict = verdict
            self.judged.append(verdict)
            self._show(verdict)
            log.info("%s; evidence: %s", verdicts.in_words(verdict), self.folder.run_dir)
        finally:
            self.is_over = True

    def _code(self, verdict: RunVerdict) -> ExitCode:
        """Return the exit code of a verdict. Without any traffic it is never that of a go."""
        assert self.run is not None
        missing = [what for kind, what in _TRAFFIC.items() if not self.run.live.counts[kind]]
        if verdict.exit_code == ExitCode.GO and missing:
            log.error("inconclusive: no %s.", ", and no ".join(missing))
            return ExitCode.INCONCLUSIVE
        return verdict.exit_code

    def _show(self, verdict: RunVerdict) -> None:
        """Print a verdict, beside the JSON if that is asked for, and put it into Locust's tables and files."""
        report.print_verdict(verdict, Console(highlight=False, stderr=bool(self._environment.parsed_options.json)))
        for name, error, count in verdicts.rows(verdict):
            add_outcome(self._environment.stats, name, error, count)

    def _fail(self, error: Exception) -> None:
        if isinstance(error, StormgateError):
            self.refusal, exit_code = str(error), error.exit_code
        else:
            self.refusal, exit_code = f"a defect of stormgate itself ({type(error).__name__}: {error}).", ExitCode.TOOL
        self._environment.process_exit_code = exit_code
        log.error("%s", self.refusal)


class Ticks:
    """What a shape is that leaves the number of users to the conductor."""


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
