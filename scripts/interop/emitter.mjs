// The original's WebSocketEmitter, as a Sale service uses it: one event for each
// target. Arguments: Redis host:port, then the id of a client.
import { RedisHelper, WebSocketEmitter } from '@venizia/ignis-helpers'

const [address, clientId] = process.argv.slice(2)
const [host, port] = address.split(':')
const redisConnection = new RedisHelper({ name: 'interop', host, port, password: undefined })
const emitter = new WebSocketEmitter({ identifier: 'interop', redisConnection })
await emitter.configure()
await emitter.toRoom({ room: 'orders', event: 'to room', data: { total: 125000 } })
await emitter.toRoom({ room: 'orders', event: 'left out', data: null, exclude: [clientId] })
await emitter.toUser({ userId: 'u1', event: 'to user', data: 'ünïcode' })
await emitter.toClient({ clientId, event: 'to client', data: [1, 2, 3] })
await emitter.broadcast({ event: 'to everyone' })
await emitter.toRoom({ room: 'ws-default', event: 'end', data: 1 })
await emitter.shutdown()
process.exit(0)
