"""Between Locust and a drill's run: begins one when a test starts, has users be its clients, judges it when it is over."""

import logging
from typing import Any

import gevent
from rich.console import Console

from drills import gates, report
from drills.verdicts import RunVerdict
from locustfiles import verdict as verdicts
from locustfiles.drill_run import DrillRun
from locustfiles.options import Plan, plan_of
from locustfiles.verdict import Provisional, RunFolder
from sim.errors import StormgateError

log = logging.getLogger("stormgate")
_EXIT_INTERNAL = 4


class Conductor:
    """Of one Locust process; every test it starts is a run with a folder and a verdict of its own."""

    def __init__(self, environment: Any) -> None:
        self._environment = environment
        self.run: DrillRun | None = None  # the one that goes on, or the last one
        self.folder: RunFolder | None = None
        self.verdict: RunVerdict | None = None  # of the last run; None while one goes on
        self.refusal = ""  # why the last test could not begin
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
        if self.run is None or self.is_over:
            return None
        clients = self.run.plan.drill.fleet.clients
        return clients + 1, float(clients + 1)  # at once: each arrives at its own moment

    def stop(self, because: str) -> None:
        """End a run that goes on before its time, and wait until it is judged."""
        if self._course is not None and not self.is_over and self.run is not None:
            self.run.stop(because)
            self._course.join()

    # --- users --------------------------------------------------------------------------------------

    def be_a_client(self, user: object) -> None:
        """This user is the next client of the fleet, until the run ends; one too many is none."""
        if self.run is not None and (number := self.run.take_client()) is not None:
            self._clients[user] = number
            self.run.be_a_client(number)

    def leave(self, user: object) -> None:
        """Locust takes a user away."""
        number = self._clients.pop(user, None)
        if number is not None and self.run is not None and not self.is_over:
            self.run.clients[number].stop()

    def publish(self) -> None:
        """This user publishes until the run ends."""
        if self.run is not None:
            self.run.publish()

    # --- runs ---------------------------------------------------------------------------------------

    def provisional(self) -> list[Provisional]:
        """How the run's checks look now."""
        if self.run is None:
            return []
        plan = self.run.plan
        return verdicts.provisional(plan.drill.checks, gates.load_thresholds(plan.thresholds), self.run.live)

    def _begin(self) -> bool:
        """Begin a run; if it cannot be, say why in one sentence."""
        self.verdict, self.refusal, self.run, self.folder, self.is_over = None, "", None, None, False
        self._clients.clear()
        self._environment.process_exit_code = _EXIT_INTERNAL  # until there is a verdict
        try:
            plan = plan_of(self._environment.parsed_options)
            self._prepare(plan)
        except StormgateError as error:
            self._fail(str(error), error.exit_code)
            if self.run is not None:
                self.run.stop(str(error))
                self.run.close()
            if self.folder is not None:
                self.folder.mark.remove()
            return False
        self._course = gevent.spawn(self._follow)
        return True

    def _prepare(self, plan: Plan) -> None:
        self.folder = verdicts.open_folder(plan)
        say = log.info
        self.run = DrillRun(plan, self.folder.folder, self.folder.run_dir.name, self._report, lambda text: say("%s", text))
        self.run.prepare()

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


def conductor_of(environment: Any) -> Conductor:
    """The conductor of a Locust process."""
    if not hasattr(environment, "stormgate"):
        environment.stormgate = Conductor(environment)
    conductor: Conductor = environment.stormgate
    return conductor
