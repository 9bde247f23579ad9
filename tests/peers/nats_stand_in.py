"""A server that takes published events as NATS JetStream does, and reacts to them as a test says. It imports nothing of ours.

`reactions` are taken in turn, one for each event that arrives: ack; refuse (stored nothing, with error `code`); silence (not
even stored); cut (stored, then the connection is cut without an answer). Without one left, it acknowledges.
"""

import json
import logging
import threading

from websockets.sync.server import serve

_SILENT = logging.Logger("silent", logging.CRITICAL + 1)


class NatsStandIn:
    """Serves on a free port of this machine, in threads of its own. Use it as a context manager."""

    def __init__(self, code=10077, lets_in=True):
        self.reactions, self.code, self.lets_in = [], code, lets_in
        self.log = []  # message ids of what is stored, in order
        self.connects = self.open = 0
        self._server = serve(self._talk, "127.0.0.1", 0, logger=_SILENT, close_timeout=0.2)
        self.port = self._server.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()

    def _talk(self, socket):
        self.open += 1
        try:
            self._serve(socket)
        finally:
            self.open -= 1

    def _serve(self, socket):
        self.connects += 1
        socket.send(b'INFO {"server_id":"S","client_id":%d}\r\n' % self.connects)
        for data in socket:
            if b"CONNECT" in data and not self.lets_in:
                socket.send(b"-ERR 'Authorization Violation'\r\n")
                socket.close(1008, "Authentication Failure")
                return
            for line in data.split(b"\r\n"):
                if line == b"PING":
                    socket.send(b"PONG\r\n")
            if data.startswith(b"HPUB") and not self._react(socket, data):
                socket.socket.shutdown(2)
                return

    def _react(self, socket, data):
        reply = data.split(b" ")[2].decode()
        key = data.partition(b"Nats-Msg-Id: ")[2].partition(b"\r\n")[0].decode()
        reaction = self.reactions.pop(0) if self.reactions else "ack"
        if reaction == "silence":
            return True
        if reaction == "refuse":
            return self._answer(socket, reply, {"error": {"code": 503, "err_code": self.code}, "stream": "s", "seq": 0})
        is_duplicate = key in self.log
        if not is_duplicate:
            self.log.append(key)
        if reaction == "cut":
            return False
        return self._answer(socket, reply, {"stream": "s", "seq": self.log.index(key) + 1, "duplicate": is_duplicate})

    @staticmethod
    def _answer(socket, reply, value):
        payload = json.dumps(value).encode()
        socket.send(b"MSG %s 1 %d\r\n%s\r\n" % (reply.encode(), len(payload), payload))
        return True
