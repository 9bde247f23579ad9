"""Our routes in Locust's web page, and the checks before and after Locust's own answers."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flask
import msgspec
from locust.argument_parser import ui_extra_args_dict
from locust.runners import STATE_CLEANUP, STATE_INIT, STATE_RUNNING, STATE_STOPPED
from werkzeug.exceptions import HTTPException

from drills.reports import report
from locustfiles.load.run.conductor import conductor_of
from locustfiles.load.web import form, guard, page_data
from sim.base.errors import StormgateError

log = logging.getLogger("stormgate")
_STATIC = Path(__file__).with_name("static")
_PAGE, _BEGINS = "locust.index", "locust.swarm"  # Locust's own
_STATS = "locust.request_stats"
_RUN_IS_ACTIVE = "a run is already active; stop it, or wait for its verdict."
_EMBEDDED = '<script type="module" src="./stormgate/static/start.js"></script></body>'
TABS = ({"title": "Gates", "key": "gates"}, {"title": "Sync", "key": "sync"})


def install(environment: Any) -> None:
    """Add tabs, routes and checks to the web page, if this Locust process has one."""
    if environment.web_ui is None:
        return
    page = _Page(environment)
    app = environment.web_ui.app
    environment.web_ui.template_args["extended_tabs"] = TABS
    environment.web_ui.template_args["extended_csv_files"] = [
        {"href": f"./stormgate/download/{name}", "title": f"Download the last run's {name}"} for name in page_data.DOWNLOADS
    ]
    app.before_request(page.check_request)
    app.after_request(page.complete_response)
    blueprint = flask.Blueprint("stormgate", __name__, url_prefix="/stormgate", static_folder=None)
    for rule, view, methods in page.routes():
        guarded = environment.web_ui.auth_required_if_enabled(view)
        blueprint.add_url_rule(rule, view.__name__, guarded, methods=methods)
    blueprint.register_error_handler(Exception, _defect)
    app.register_blueprint(blueprint)


class _Page:
    """Our part of the page of one Locust process."""

    def __init__(self, environment: Any) -> None:
        self._environment = environment
        self._conductor = conductor_of(environment)
        self._arguments = ui_extra_args_dict()
        self._form = msgspec.json.encode(form.form(self._arguments))

    def routes(self) -> list[tuple[str, Callable[..., flask.Response], list[str]]]:
        """Return path below /stormgate, view and methods of each route."""
        return [
            ("", self.page, ["GET"]),
            ("/state", self.state, ["GET"]),
            ("/form", self.form, ["GET"]),
            ("/static/<name>", self.static, ["GET"]),
            ("/download/<name>", self.download, ["GET"]),
            ("/storm", self.storm, ["POST"]),
            ("/revert", self.revert, ["POST"]),
        ]

    # --- every request ------------------------------------------------------------------------------

    def check_request(self) -> flask.Response | None:
        """Refuse foreign requests, and a start with invalid input."""
        request = flask.request
        changes = request.method not in ("GET", "HEAD")
        if why_not := guard.refusal(dict(request.headers), request.host, self._environment.web_ui.host, changes=changes):
            return _sentence(why_not, 403)
        if request.endpoint != _BEGINS:
            return None
        why_not = _RUN_IS_ACTIVE if self._is_asked else self._refusal()
        return flask.jsonify({"success": False, "message": f"Not started: {why_not}"}) if why_not else None

    def complete_response(self, response: flask.Response) -> flask.Response:
        """Forbid framing by other sites, and add our part to Locust's page."""
        response.headers["X-Frame-Options"] = "DENY"
        if flask.request.endpoint == _PAGE and response.status_code == 200:
            response.set_data(response.get_data(as_text=True).replace("</body>", _EMBEDDED))
        if flask.request.endpoint == _STATS and response.status_code == 200:
            response.set_data(msgspec.json.encode({**msgspec.json.decode(response.get_data()), "state": self._state}))
        return response

    @property
    def _state(self) -> str:
        """Locust's state for its own page.

        Locust's answer may be two seconds old, and its page stops polling after "ready" or "cleanup".
        """
        state = str(self._environment.runner.state)
        return STATE_RUNNING if state == STATE_CLEANUP else state

    @property
    def _is_asked(self) -> bool:
        """Whether Locust runs a test or is about to."""
        runner = self._environment.runner
        return runner.state not in (STATE_INIT, STATE_STOPPED) or runner.shape_greenlet is not None

    def _refusal(self) -> str:
        typed, options = flask.request.form.to_dict(), self._environment.parsed_options
        return form.refusal(typed, self._arguments, options, ramps=self._conductor.ramps, workers=self._conductor.workers)

    # --- reading ------------------------------------------------------------------------------------

    def page(self) -> flask.Response:
        """Serve our own page: all tabs on one page."""
        return self.static("page.html")

    def state(self) -> flask.Response:
        """Serve the current state, with the curve after the second `after`."""
        after_s = flask.request.args.get("after", -math.inf, type=float)
        is_busy = self._environment.runner.state not in (STATE_INIT, STATE_STOPPED)
        now = page_data.shown(self._conductor, is_asked=self._is_asked, is_busy=is_busy, after_s=after_s)
        return _json(msgspec.json.encode(now))

    def form(self) -> flask.Response:
        """Serve the form's fields."""
        return _json(self._form)

    def static(self, name: str) -> flask.Response:
        """Serve a static file; the colours are those of the reports."""
        folder = report.TEMPLATES if name == report.COLOURS else _STATIC
        return flask.send_from_directory(folder, name, max_age=0)

    def download(self, name: str) -> flask.Response:
        """Serve a file of the last run, after it is judged."""
        path = page_data.downloads(self._conductor).get(name)
        if path is None or not path.exists():
            return _sentence(f"{name} does not exist yet: it is written after a run is judged.", 404)
        as_attachment = path.suffix not in (".png", ".html")
        name = f"{page_data.run_id(self._conductor)}-{name}"
        return flask.send_file(path.resolve(), as_attachment=as_attachment, download_name=name, max_age=0)

    # --- buttons ------------------------------------------------------------------------------------

    def storm(self) -> flask.Response:
        """Inject the next fault now."""
        return _done(self._conductor.storm_now)

    def revert(self) -> flask.Response:
        """Revert the active faults now."""
        return _done(self._conductor.revert_now)


def _defect(error: Exception) -> flask.Response:
    """Answer an error in our routes with one sentence."""
    if isinstance(error, HTTPException):
        return _sentence(str(error.description), error.code or 500)
    log.error("a defect of stormgate's page at %s: %s: %s", flask.request.path, type(error).__name__, error)
    return _sentence("a defect of stormgate's page itself; Locust's log says which.", 500)


def _done(act: Callable[[], str]) -> flask.Response:
    try:
        return _sentence(act(), 200)
    except StormgateError as error:
        return _sentence(f"Not done: {error}", 409)


def _sentence(sentence: str, status: int) -> flask.Response:
    return flask.Response(f"{sentence}\n", status, mimetype="text/plain")


def _json(body: bytes) -> flask.Response:
    return flask.Response(body, mimetype="application/json", headers={"Cache-Control": "no-store"})
