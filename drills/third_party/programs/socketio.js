// A chat-like application on Socket.IO, to be drilled: streams are rooms, events are published over HTTP.
//
// Options are the JSON of its one argument: port; those of Socket.IO of the same name (pingInterval, pingTimeout,
// connectTimeout, in ms); recovery (connection state recovery), maxDisconnectionDuration (ms), skipMiddlewares;
// middlewareMs, which is how long its token check takes; volatileEvery: each event of this number is volatile (0: none).
const http = require("http");
const { setTimeout: sleep } = require("timers/promises");
const { Server } = require("socket.io");

const options = JSON.parse(process.argv[2]);
const numbers = new Map(); // of each stream: how many events it had
const published = new Map(); // by idempotency key: the number of its event
let created = 0;

const server = http.createServer(async (request, response) => {
  let body = "";
  for await (const part of request) body += part;
  const answer = (status, value) => {
    response.writeHead(status, { "content-type": "application/json" });
    response.end(JSON.stringify(value));
  };
  const route = routes[`${request.method} ${new URL(request.url, "http://localhost").pathname}`];
  if (route) route(body ? JSON.parse(body) : {}, answer);
  else answer(404, { error: { code: "not_found" } });
});

const routes = {
  "GET /ready": (_, answer) => answer(200, { sockets: io.engine.clientsCount }),
  "POST /streams": ({ name }, answer) => answer(200, { stream: `${name}-${++created}` }),
  "POST /tokens": ({ account, ttl_s }, answer) => {
    const lifetime = ttl_s ?? 3600;
    answer(200, { token: `${account}:${Date.now() + 1000 * lifetime}`, lifetime_s: lifetime });
  },
  "POST /drop": (_, answer) => {
    const sockets = Object.values(io.engine.clients);
    for (const socket of sockets) socket.close(true);
    answer(200, { dropped: sockets.length });
  },
  "POST /disconnect": (_, answer) => {
    const { clientsCount: dropped } = io.engine;
    io.disconnectSockets(true);
    answer(200, { dropped });
  },
  "POST /publish": ({ stream, payload, key }, answer) => {
    let number = published.get(key);
    if (number === undefined) {
      number = (numbers.get(stream) ?? 0) + 1;
      numbers.set(stream, number);
      if (key !== undefined) published.set(key, number);
      const isVolatile = options.volatileEvery && number % options.volatileEvery === 0;
      (isVolatile ? io.volatile : io).to(stream).emit("event", { stream, payload });
    }
    answer(200, { stream, number });
  },
};

const recovery = { maxDisconnectionDuration: options.maxDisconnectionDuration, skipMiddlewares: options.skipMiddlewares };
const io = new Server(server, {
  pingInterval: options.pingInterval,
  pingTimeout: options.pingTimeout,
  connectTimeout: options.connectTimeout,
  transports: ["websocket"],
  ...(options.recovery ? { connectionStateRecovery: recovery } : {}),
});

io.use(async (socket, next) => {
  const [account, expires] = String(socket.handshake.auth.token ?? "").split(":");
  const code = !account || !expires ? "unauthorized" : Date.now() > Number(expires) ? "token_expired" : "";
  if (options.middlewareMs) await sleep(options.middlewareMs);
  next(code ? Object.assign(new Error(code), { data: { code } }) : undefined);
});

io.on("connection", (socket) => {
  socket.on("subscribe", (stream, acknowledge) => {
    socket.join(stream);
    acknowledge({ ok: true });
  });
  socket.on("leave", (stream, acknowledge) => {
    socket.leave(stream);
    acknowledge({ ok: true });
  });
});

server.listen(options.port, "127.0.0.1");
process.on("SIGTERM", () => process.exit(0));
