// The Durable Streams reference server, with what drills ask of it on a second port. Options: the JSON in argument 1.
//   port, controlPort; longPollTimeout (ms); dataDir (absent: streams are kept in memory)
// PUT /crash/before_answer: end as by kill -9 after the next append is stored and before it is answered
// PUT /crash/before_index: the same after its message is in the file and before the file store's index knows it
// PUT /close: end all connections
// PUT /recreate: delete every stream and create it again
import { createServer } from "node:http"
import { DurableStreamTestServer } from "@durable-streams/server"

const options = JSON.parse(process.argv[2])
const { port, controlPort, ...own } = options
const service = new DurableStreamTestServer({ host: "127.0.0.1", port, ...own })
const MAX_TRIES = 50 // an append that is under way at a DELETE may bring the stream back
const created = new Map() // path: the headers with which it was created
let crashes = false

await service.start()
const server = service.server
const [serve] = server.listeners("request")
server.removeAllListeners("request")
server.on("request", (request, response) => {
  if (request.method === "PUT") created.set(request.url, { "content-type": request.headers["content-type"] })
  if (request.method === "POST") append(request, response)
  else serve(request, response)
})

function append(request, response) {
  const end = response.end.bind(response)
  response.end = (...answer) => (crashes ? crash() : end(...answer), response)
  serve(request, response)
}

function crash() {
  process.kill(process.pid, "SIGKILL")
}

async function recreate() {
  for (const [path, headers] of created) {
    const url = `http://127.0.0.1:${port}${path}`
    let status = 0
    for (let tries = 0; status !== 201; tries += 1) {
      if (tries === MAX_TRIES) throw new Error(`PUT ${path} answered ${status}`)
      await fetch(url, { method: "DELETE" })
      status = (await fetch(url, { method: "PUT", headers })).status
    }
  }
}

createServer(async (request, response) => {
  try {
    if (request.url === "/crash/before_answer") crashes = true
    else if (request.url === "/crash/before_index") service.store.db.put = crash
    else if (request.url === "/close") server.closeAllConnections()
    else if (request.url === "/recreate") await recreate()
    response.writeHead(204).end()
  } catch (error) {
    response.writeHead(500).end(String(error))
  }
}).listen(controlPort, "127.0.0.1")

process.on("SIGTERM", async () => {
  await service.stop()
  process.exit(0)
})
