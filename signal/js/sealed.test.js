import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Client } from './client.js'
import { Sealing } from './sealed.js'

const curve = { name: 'ECDH', namedCurve: 'P-256' }
/** @param {string} text */
const decode = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0))
/** @param {ArrayBuffer | Uint8Array} bytes */
const encode = (bytes) => btoa(String.fromCharCode(...new Uint8Array(bytes)))

/** A socket whose other end is a node that encrypts. */
class Socket {
  static last = /** @type {any} */ (undefined)
  readyState = 1
  sent = /** @type {any[]} */ ([])
  closedWith = 0
  key = /** @type {CryptoKey | undefined} */ (undefined)
  constructor() { Socket.last = this }
  /** @param {string} text */
  send(text) { this.sent.push(JSON.parse(text)) }
  /** @param {number} code */
  close(code) { this.closedWith = code; this.readyState = 3 }
  /** @param {any} frame */
  say(frame) { this.onmessage({ data: JSON.stringify(frame) }) }
  /** @param {any} [_] */ onmessage(_) {}
  onopen() {}

  /** Answers authenticate as a node does. */
  async connected() {
    const { data } = this.sent[0]
    const pair = await crypto.subtle.generateKey(curve, false, ['deriveBits'])
    const salt = crypto.getRandomValues(new Uint8Array(32))
    const client = await crypto.subtle.importKey('raw', decode(data.publicKey), curve, false, [])
    const shared = await crypto.subtle.deriveBits({ name: 'ECDH', public: client }, pair.privateKey, 256)
    const base = await crypto.subtle.importKey('raw', shared, 'HKDF', false, ['deriveKey'])
    const info = new TextEncoder().encode('ignis-ecdh-p256-aes-256-gcm-v1')
    this.key = await crypto.subtle.deriveKey({ name: 'HKDF', hash: 'SHA-256', salt, info }, base, { name: 'AES-GCM', length: 256 }, false, ['encrypt', 'decrypt'])
    this.say({ event: 'connected', data: { id: 'n.1', serverPublicKey: encode(await crypto.subtle.exportKey('raw', pair.publicKey)), salt: encode(salt) } })
  }

  /** @param {any} frame */
  async sealed(frame) {
    const iv = crypto.getRandomValues(new Uint8Array(12))
    const ct = await crypto.subtle.encrypt({ name: 'AES-GCM', iv }, /** @type {CryptoKey} */ (this.key), new TextEncoder().encode(JSON.stringify(frame)))
    return { event: 'encrypted', data: { iv: encode(iv), ct: encode(ct) } }
  }

  /** @param {any} frame */
  async opened({ event, data }) {
    assert.equal(event, 'encrypted')
    const plain = await crypto.subtle.decrypt({ name: 'AES-GCM', iv: decode(data.iv) }, /** @type {CryptoKey} */ (this.key), decode(data.ct))
    return JSON.parse(new TextDecoder().decode(plain))
  }
}

/** Waits until something is so. @param {() => any} is */
async function until(is) {
  for (let i = 0; !is(); i++) {
    assert.ok(i < 2_000, 'waited in vain')
    await new Promise((done) => setTimeout(done, 5))
  }
}

/** A client that wants encryption, before its socket is open. @param {import('node:test').TestContext} t */
async function start(t) {
  const states = /** @type {any[]} */ ([]), got = /** @type {any[]} */ ([])
  Socket.last = undefined
  const client = new Client({
    url: 'ws://node/ws', token: () => 'token', WebSocket: /** @type {any} */ (Socket), state: (s, code) => states.push(code ? `${s} ${code}` : s), sealing: () => Sealing.offer(),
  })
  client.join('orders', { event: (f) => got.push(f.data) })
  t.after(() => client.close())
  await until(() => Socket.last)
  const socket = /** @type {Socket} */ (Socket.last)
  socket.onopen()
  await until(() => socket.sent.length === 1)
  return { client, socket, states, got }
}

test('both directions, in order', async (t) => {
  const { client, socket, got } = await start(t)
  await socket.connected()
  await until(() => socket.sent.length === 2)
  assert.deepEqual((await socket.opened(socket.sent[1])).data, { rooms: ['orders'] })
  const frames = []
  for (let i = 0; i < 50; i++) frames.push(await socket.sealed({ event: 'live', room: 'orders', data: i, pad: 'x'.repeat(i % 2 ? 1 : 50_000) }))
  for (const f of frames) socket.say(f)
  for (let i = 0; i < 50; i++) client.publish('orders', 'said', 'x'.repeat(i % 2 ? 1 : 40_000), `e${i}`)
  await until(() => got.length === 50 && socket.sent.length === 52)
  assert.deepEqual(got, [...Array(50).keys()])
  for (let i = 0; i < 50; i++) assert.equal((await socket.opened(socket.sent[i + 2])).data.eventId, `e${i}`)
})

for (const [what, say] of /** @type {[string, (socket: Socket) => any][]} */ ([
  ['a node that does not encrypt', (s) => s.say({ event: 'connected', data: { id: 'n.1' } })],
  ['a frame in the open', async (s) => { await s.connected(); s.say({ event: 'live', room: 'orders', data: 'forged' }) }],
  ['a frame of another key', async (s) => { await s.connected(); s.say({ event: 'encrypted', data: { iv: 'AAECAwQFBgcICQoL', ct: 'AAAAAAAAAAAAAAAAAAAAAAAAAAA=' } }) }],
  ['a key that is none', (s) => s.say({ event: 'connected', data: { id: 'n.1', serverPublicKey: 'AAAA', salt: 'AAAA' } })],
])) {
  test(`${what} ends it for good`, async (t) => {
    const { socket, states, got } = await start(t)
    await say(socket)
    await until(() => states.includes('offline 4004'))
    assert.equal(socket.closedWith, 4004)
    assert.deepEqual(got, [])
  })
}
