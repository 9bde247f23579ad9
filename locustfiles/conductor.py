"""Between Locust and a drill's run: begins one when a test starts, has users be its clients, judges it when it is over."""

import logging
from typing import Any

import gevent
from locust.runners import MasterRunner
from rich.console import Console

from drills import gates, report
from drills.verdicts import RunVerdict
from locustfiles import verdict as verdicts
from locustfiles.climb import Climb
from locustfiles.drill_run import DrillRun
from locustfiles.options import Plan, plan_of
from locustfiles.verdict import Provisional, RunFolder
from sim.errors import StormgateError, UsageError

log = logging.getLogger("stormgate")
_EXIT_INTERNAL = 4


class Conductor:
    """Of one Locust process; every test it starts is a run with a folder and a verdict of its own."""

    def __init__(self, environment: Any) -> None:
        self._environment = environment
        self.run: DrillRun | None = None  # the one that goes on, or the last one
        self.folder: RunFolder | None = None
        self.verdict: RunVerdict | None = None  # of the last run; None while one goes on
        self.refusal = ""  # why the last test could not begin, or could not be judged
        self.climbs = False  # whether a green run is followed by a larger one
        self.climb: Climb | None = None
        self.is_over = False  # the run is judged, or could not be
        self._is_expected = True
        self._course: gevent.Greenlet[[], None] | None = None
        self._clients: dict[Any, int] = {}

    # --- Locust's side ------------------------------------------------------------------------------

    def expect_run(self) -> None:
        """The next tick begins a run."""
        self._is_expected = True

    def tick(self) -> tuple[int, float] | None:
        """Users, and how many of them a second; None when there is nothing more to do."""
        if self._is_expected:
            self._is_expected = False
            if not self._begin():
                return None
        if self.run is None or (self.is_over and not self._begin_next()):
            return None
        clients = self.run.plan.drill.fleet.clients
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

    def heal_now(self) -> None:
        """Take back now what the run that goes on has broken. Raises `UsageError` where there is nothing."""
        self._run_that_goes_on().heal_now()

    def _run_that_goes_on(self) -> DrillRun:
        if self.run is None or self.is_over:
            raise UsageError("no run is going on; start one first.")
        return self.run

    # --- users --------------------------------------------------------------------------------------

    def be_a_client(self, user: object) -> None:
        """This user is the next client of the fleet, until there is another run; one too many is none."""
        if (run := self._run_or_wait()) is not None:
            if (number := run.take_client()) is not None:
                self._clients[user] = number
                run.be_a_client(number)
            run.replaced.wait()

    def leave(self, user: object) -> None:
        """Locust takes a user away."""
        number = self._clients.pop(user, None)
        if number is not None and self.run is not None and not self.is_over:
            self.run.clients[number].stop()

    def publish(self) -> None:
        """This user publishes until there is another run."""
        if (run := self._run_or_wait()) is not None:
            run.publish()
            run.replaced.wait()

    def _run_or_wait(self) -> DrillRun | None:
        """The run that goes on; without one, a user comes back later, or never."""
        if self.run is None:
            gevent.sleep(1.0)
        return self.run

    # --- runs ---------------------------------------------------------------------------------------

    def provisional(self) -> list[Provisional]:
        """How the run's checks look now."""
        if self.run is None:
            return []
        return verdicts.provisional(self.run.plan.drill.checks, self._thresholds, self.run.live)

    def _begin(self) -> bool:
        """Begin the run, or the first one, that the options ask for."""
        self.climb, self.refusal = None, ""
        self._environment.process_exit_code = _EXIT_INTERNAL  # until there is a verdict
        options = self._environment.parsed_options
        try:
            _require_one_process(self._environment.runner)
            self.climb = Climb(options) if self.climbs else None
            plan = plan_of(options)
        except StormgateError as error:
            self._fail(str(error), error.exit_code)
            return False
        return self._begin_run(plan)

    def _begin_next(self) -> bool:
        """Begin the next run of a climb, if there is one."""
        if self.climb is None or self.run is None or self.verdict is None:
            return False
        plan = self.climb.after(self.run.plan, self.verdict)
        log.info("climb: %s", f"next {plan.drill.fleet.clients} clients" if plan else self.climb.in_words())
        self._environment.process_exit_code = self.climb.exit_code
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
        self.run = DrillRun(plan, self.folder.folder, self.folder.run_dir.name, self._report, lambda text: log.info("%s", text))
        self.run.prepare()

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


def _require_one_process(runner: object) -> None:
    if isinstance(runner, MasterRunner):
        raise UsageError(
            "load tests run in one process: what workers observe cannot be judged together yet; leave --master, --worker and "
            "--processes out."
        )


def conductor_of(environment: Any) -> Conductor:
    """The conductor of a Locust process."""
    if not hasattr(environment, "stormgate"):
        environment.stormgate = Conductor(environment)
    conductor: Conductor = environment.stormgate
    return conductor
