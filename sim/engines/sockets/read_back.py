"""The auditor over HTTP: what the service returns for each stream after settling."""

from collections.abc import Sequence

import msgspec

from sim.base.clocks import WallClock
from sim.engines.shared import service_api
from sim.engines.shared.publishing import Stream
from sim.engines.sockets.http import ServiceHttp
from sim.protocols.markers import MarkerReader
from sim.record.parquet import Recorder


async def read_back(
    http: ServiceHttp, streams: Sequence[Stream], marker_run: str, recorder: Recorder, clock: WallClock
) -> None:
    """Read all streams and record every event of this run in the order of the answer. Raises `TargetError`."""
    reader = MarkerReader(marker_run, "")
    for stream in streams:
        events = await http.ask(service_api.read_back, stream.run_id)
        t = clock.now() - clock.began
        for event in events or []:
            found = reader.read(msgspec.Raw(msgspec.json.encode(event.payload)), stream.stream)
            if found.number >= 0 or found.problem:
                seq = event.position if isinstance(event.position, int) else -1
                recorder.add(t, "read_back", stream=stream.stream, seq=seq, detail=found.problem, marker=found.number)
        detail = "unknown_stream" if events is None else "ok"
        recorder.add(t, "read_back_completed", stream=stream.stream, value=float(len(events or [])), detail=detail)
