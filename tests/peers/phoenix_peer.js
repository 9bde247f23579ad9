// Phoenix's own JavaScript client as a client of the sync service. JSON lines on stdin tell it what to do, and says
// what happened by JSON lines on stdout. Connecting, heartbeats, reconnects and rejoins are the library's; only the cursors
// are kept here, as any client of the service must.
//
//   node phoenix_peer.js '{"url": "ws://...", "token": "...", "topics": [...], "resume_after": {...}, "heartbeat_ms": 200}'

import { createInterface } from "node:readline";
import { Socket } from "phoenix";
import WebSocket from "ws";

const options = JSON.parse(process.argv[2]);
const cursors = { ...options.resume_after };
const BUILD = { client_build_id: "20260601T000000Z", protocol_version: "spacetime.sync.v1", schema_version: 1 };

const say = (what, more = {}) => process.stdout.write(JSON.stringify({ what, ...more }) + "\n");

const socket = new Socket(`${options.url}/sync/socket`, {
  transport: WebSocket,
  params: { token: options.token, client: "phoenix.js" },
  heartbeatIntervalMs: options.heartbeat_ms,
  timeout: 5000,
});
socket.onOpen(() => say("open"));
socket.onClose((event) => say("close", { code: event.code }));
socket.onMessage(({ topic, event, ref, join_ref, payload }) => {
  if (topic === "phoenix") say("heartbeat", { event, ref, join_ref, status: payload.status });
});

function apply({ topic, watermark, payload, payload_hash }) {
  cursors[topic] = Math.max(cursors[topic] ?? 0, watermark);
  say("update", { topic, seq: watermark, payload, payload_hash });
}

function open(envelope) {
  const content = JSON.parse(Buffer.from(envelope.payload_bytes, "base64").toString());
  apply({ ...content, topic: envelope.topic, watermark: envelope.seq });
}

function subscribe(channel) {
  channel
    .push("sync:subscribe", { topics: options.topics, resume_after: cursors })
    .receive("ok", () => say("subscribed"))
    .receive("error", (response) => say("refused", { response }))
    .receive("timeout", () => say("timeout", { of: "subscribe" }));
}

// A channel rejoins by itself after a reconnect, and its `ok` comes again each time: that is when to subscribe again.
function join() {
  const channel = socket.channel("sync:v1", BUILD);
  channel.on("sync:update_batch", ({ updates, replay_complete }) => {
    updates.forEach(apply);
    say("batch", { updates: updates.length, replay_complete });
  });
  channel.on("sync:frame", open);
  channel.on("sync:heartbeat", ({ watermarks }) => say("heads", { watermarks }));
  channel.on("sync:error", (body) => say("error", { body }));
  channel.onError((reason) => say("channel_error", { reason: String(reason?.reason ?? reason) }));
  channel
    .join()
    .receive("ok", (response) => {
      say("joined", { response });
      subscribe(channel);
    })
    .receive("error", (response) => say("join_refused", { response }))
    .receive("timeout", () => say("timeout", { of: "join" }));
  return channel;
}

let channel = join();
const ORDERS = {
  leave_and_join: () => {
    channel.leave().receive("ok", () => say("left")).receive("timeout", () => say("timeout", { of: "leave" }));
    channel = join();
  },
  push: ({ event, payload }) =>
    channel
      .push(event, payload)
      .receive("ok", (response) => say("pushed", { response }))
      .receive("error", (response) => say("push_refused", { response })),
};

socket.connect();
const orders = createInterface({ input: process.stdin });
orders.on("line", (line) => {
  const order = JSON.parse(line);
  ORDERS[order.order](order);
});
orders.on("close", () => process.exit(0)); // whoever started this is gone, or wants it gone
