"""Sliders of a notebook: fleet, reconnect policy and workers; a button simulates them, and the answer and a figure follow."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sim.base.errors import UsageError
from sim.planning import bottlenecks, words
from sim.planning.studies import Study, study
from sim.planning.sweep_file import EngineName, Value
from sim.planning.words import Words
from sim.plots import planning
from sim.plots.style import ShownFigure

Shown = tuple[Words, ShownFigure]
WORKERS = "model.server.handshake_workers"
_WIDTH = {"description_width": "140px"}


def tried(
    clients: int,
    policy: str,
    workers: int,
    drill: Path,
    *,
    fixed: Mapping[str, Any] | None = None,
    curve_s: float = 60.0,
    **more: Any,
) -> Shown:
    """Simulate one combination; the answer in words, and the recovery. Other arguments as for `study`."""
    spread = {"fleet.connects_per_s": max(clients / 60, 1.0)}
    over: dict[str, tuple[Value]] = {"fleet.clients": (clients,), "fleet.policy": (policy,), WORKERS: (workers,)}
    found = study(drill, over, fixed={**(fixed or {}), **spread}, curve_s=curve_s, **more)
    return _told(found), planning.recovery({policy: found.curve(clients=clients)}, f"Recovery of {clients:,} clients")


def _told(found: Study) -> Words:
    shown = {
        "live_again_95_s": "95 % live again after {} s",
        "peak_reached_per_s": "at most {} connects a second reach the service",
    }
    means = {row["metric"]: row["mean"] for _, row in found.table.iterrows()}
    known = [text.format(words.short(means[name])) for name, text in shown.items() if name in means]
    return words.said(", ".join(known) + "." if known else "No run has a value.", bottlenecks.limit_of(found.rows[0]))


def explore(
    drill: Path, policies: Sequence[str], *, clients: int, workers: int = 1, engine: EngineName = "fleet", **more: Any
) -> Any:
    """Sliders that begin at these values, with the first answer. Other arguments as for `study`.

    Without ipywidgets, a sentence that says so.
    """
    try:
        import ipywidgets  # type: ignore[import-untyped]
    except ImportError:
        return words.said("The sliders need ipywidgets: `pip install 'stormgate[notebooks]'`.")
    fleet = ipywidgets.IntSlider(
        clients, 10, max(4 * clients, 100), max(clients // 20, 1), description="clients", style=_WIDTH, continuous_update=False
    )
    delays = ipywidgets.Dropdown(options=tuple(policies), value=policies[0], description="backoff", style=_WIDTH)
    hands = ipywidgets.IntSlider(
        workers, 1, max(64, workers), description="handshake workers", style=_WIDTH, continuous_update=False
    )
    button = ipywidgets.Button(description="Simulate", button_style="primary")
    shown = ipywidgets.Output()

    def simulate(_: object = None) -> None:
        button.disabled = True
        try:
            show(shown, lambda: tried(fleet.value, delays.value, hands.value, drill, engine=engine, **more))
        finally:
            button.disabled = False

    button.on_click(simulate)
    simulate()
    return ipywidgets.VBox([fleet, delays, hands, button, shown])


def show(output: Any, make: Callable[[], Shown]) -> None:
    """Show an answer in a widget, or in one sentence why there is no answer."""
    try:
        text, figure = make()
    except UsageError as error:
        output.outputs = ()
        output.append_display_data(words.said(f"**Not simulated:** {error}"))
        return
    output.outputs = ()
    output.append_display_data(text)
    output.append_display_data(figure)
