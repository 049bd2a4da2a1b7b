// The original, as shops run it: its emitter, or one of its servers.
//
//	bun ignis.mjs emitter <Redis host:port>
//	bun ignis.mjs server <Redis host:port> [encrypted]
//
// Each line of the input is an order, answered by a line that begins with "> ", among those of its
// logger. A server first says "> <port>"; it lets in everyone whose token says who they are, without
// looking at its signature.
import { createInterface } from 'node:readline'
import { ECDH, RedisHelper, WebSocketEmitter, WebSocketServerHelper } from '@venizia/ignis-helpers'

const [role, address, encrypted] = process.argv.slice(2)
const [host, port] = address.split(':')
const redisConnection = new RedisHelper({ name: 'interop', host, port, password: undefined })
const say = (what) => process.stdout.write(`> ${what}\n`)

async function emitter() {
  const emitter = new WebSocketEmitter({ identifier: 'interop', redisConnection })
  await emitter.configure()
  const send = {
    client: (o) => emitter.toClient({ clientId: o.name, ...o }),
    user: (o) => emitter.toUser({ userId: o.name, ...o }),
    room: (o) => emitter.toRoom({ room: o.name, ...o }),
    broadcast: (o) => emitter.broadcast(o),
  }
  return { order: (o) => send[o.kind](o), end: () => emitter.shutdown() }
}

async function server() {
  const keys = new Map() // of clients whose frames are encrypted
  const ecdh = ECDH.withAlgorithm()
  const upgrade = (request, s) => {
    if (new URL(request.url).pathname === '/ws' && s.upgrade(request, { data: { clientId: crypto.randomUUID() } })) return
    return new Response('WebSocket upgrade failed', { status: 500 })
  }
  const bun = Bun.serve({ hostname: '127.0.0.1', port: 0, fetch: upgrade, websocket: { message() {} } })
  const helper = new WebSocketServerHelper({
    identifier: 'interop',
    redisConnection,
    server: bun,
    requireEncryption: encrypted === 'encrypted',
    authenticateFn: ({ token }) => ({ userId: JSON.parse(atob(token.split('.')[1].replaceAll('-', '+').replaceAll('_', '/'))).sub }),
    validateRoomFn: ({ rooms }) => rooms,
    messageHandler: ({ clientId, message }) => helper.sendToClient({ clientId, event: `${message.event}:response`, data: message.data }),
    clientDisconnectedFn: ({ clientId }) => keys.delete(clientId),
    handshakeFn: async ({ clientId, data }) => {
      const { keyPair, publicKeyB64 } = await ecdh.generateKeyPair()
      const peerPublicKey = await ecdh.importPublicKey({ rawKeyB64: data.publicKey })
      const { key, salt } = await ecdh.deriveAESKey({ privateKey: keyPair.privateKey, peerPublicKey })
      keys.set(clientId, key)
      return { serverPublicKey: publicKeyB64, salt }
    },
    outboundTransformer: encrypted === 'encrypted' ? async ({ client, event, data }) => {
      if (event === 'connected') return null // it carries the key
      return { event: 'encrypted', data: await ecdh.encrypt({ message: JSON.stringify({ event, data }), secret: keys.get(client.id) }) }
    } : undefined,
  })
  await helper.configure()
  bun.reload({ fetch: upgrade, websocket: helper.getBunWebSocketHandler() })
  say(bun.port)
  return {
    order: (o) => helper.send({ destination: o.name || undefined, payload: { topic: o.event, data: o.data } }),
    end: () => helper.shutdown(),
  }
}

const { order, end } = await { emitter, server }[role]()
for await (const line of createInterface({ input: process.stdin })) {
  await order(JSON.parse(line))
  say('done')
}
await end()
process.exit(0)
