import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Client, backoff, closes } from './client.js'

/** A socket whose other end is the test. */
class Socket {
  static all = /** @type {Socket[]} */ ([])
  readyState = 1
  sent = /** @type {any[]} */ ([])
  constructor() { Socket.all.push(this) }
  /** @param {string} text */
  send(text) { this.sent.push(JSON.parse(text)) }
  close() { this.end(1000) }
  /** @param {any} frame */
  say(frame) { this.onmessage({ data: JSON.stringify(frame) }) }
  /** @param {number} code */
  end(code) { this.readyState = 3; this.onclose({ code }) }
  /** @param {any} [_] */ onmessage(_) {}
  /** @param {any} [_] */ onclose(_) {}
  onopen() {}
}

/** The last join. @param {Socket} socket */
const join = (socket) => socket.sent.findLast((f) => f.event === 'join')
/** Frames without their ids. @param {any[]} sent */
const plain = (sent) => sent.map(({ id, ...rest }) => rest)
/** The page's turn is over. */
const turn = () => Promise.resolve()

const tag = '0123456789ab'
/** @param {number} n @param {object} [more] */
const event = (n, more = {}) => ({ event: 'n', room: 'orders', data: n, eventId: `e-${n}`, sequence: n, position: `abcdefgh.${n}.${tag}`, ...more })

/** A client that has joined "orders" at n, and what it was told. @param {import('node:test').TestContext} t @param {number} n */
async function joined(t, n) {
  t.mock.timers.enable({ apis: ['setTimeout', 'Date'] })
  Socket.all = []
  const got = /** @type {any[]} */ ([])
  const client = new Client({ url: 'ws://node/ws', token: () => 'token', WebSocket: /** @type {any} */ (Socket), random: () => 0.5, state: (s) => got.push(s) })
  client.join('orders', { event: (f) => got.push(f.data), resync: (reason, position) => got.push(`${reason} ${position}`) })
  const socket = await connected('c1')
  socket.say({ event: 'joined', id: join(socket).id, data: { rooms: [{ room: 'orders', position: `abcdefgh.${n}.${tag}`, recovered: false, reason: 'fresh' }], denied: [], done: true } })
  got.length = 0
  t.after(() => client.close())
  return { client, socket, got }
}

/** The last socket, authenticated. @param {string} id */
async function connected(id) {
  await Promise.resolve() // the token
  await Promise.resolve()
  const socket = /** @type {Socket} */ (Socket.all.at(-1))
  socket.onopen()
  socket.say({ event: 'connected', data: { id } })
  return socket
}

test('an event is never taken for the node\'s own word, whatever its name', async (t) => {
  const { client, socket, got } = await joined(t, 0)
  const denied = /** @type {string[]} */ ([])
  client.join('stock', { event: () => {}, denied: (code) => denied.push(code) })
  for (const [n, name] of ['left', 'room.access.revoked', 'connected', 'resync', 'auth.revoked', 'joined', 'skip', 'error', 'degraded'].entries())
    socket.say(event(n + 1, { event: name, data: { rooms: ['stock'], room: 'stock', id: 'x', position: `zzzzzzzz.1.${tag}`, reason: 'epoch', denied: [] }, schemaVersion: 1 }))
  assert.deepEqual(denied, [])
  assert.equal(got.length, 9, 'each came as an event of its room')
  socket.say(event(10, { schemaVersion: 1 }))
  assert.equal(got.at(-1), 10, 'the room goes on')
})

test('events in their order, each once', async (t) => {
  const { socket, got } = await joined(t, 0)
  for (const f of [event(1), event(2), event(2), event(1), event(3)]) socket.say(f)
  socket.say({ event: 'skip', data: { room: 'orders', position: `abcdefgh.4.${tag}` } })
  socket.say(event(5))
  socket.say(event(6, { eventId: 'e-5' })) // sent again after its two minutes
  socket.say(event(7))
  socket.say({ event: 'live', room: 'orders', data: 'live' })
  socket.say({ event: 'n', room: 'another', data: 'x' })
  assert.deepEqual(got, [1, 2, 3, 5, 7, 'live'])
})

test('a gap: it joins again from where it is, not more than once in a while', async (t) => {
  const { socket, got } = await joined(t, 0)
  socket.say(event(1))
  socket.sent.length = 0
  socket.say(event(3))
  socket.say(event(4))
  await turn()
  const again = { event: 'join', data: { rooms: [{ room: 'orders', since: `abcdefgh.1.${tag}` }] } }
  assert.deepEqual(plain(socket.sent), [again])
  socket.say({ event: 'joined', id: join(socket).id, data: { rooms: [{ room: 'orders', position: `abcdefgh.1.${tag}`, recovered: true, replayed: 3 }], denied: [], done: true } })
  for (const n of [2, 3, 4]) socket.say(event(n))
  t.mock.timers.tick(6_000)
  socket.say(event(9))
  await turn()
  assert.deepEqual(socket.sent.length, 2)
  assert.deepEqual(got.filter(Number), [1, 2, 3, 4])
})

test('away and back: from its position, and with the id of the connection before', async (t) => {
  const { socket, got } = await joined(t, 0)
  socket.say(event(1))
  socket.end(1006)
  t.mock.timers.tick(1_000)
  const next = await connected('c2')
  assert.deepEqual(plain(next.sent), [
    { event: 'authenticate', data: { type: 'Bearer', token: 'token', previous: 'c1' } },
    { event: 'join', data: { rooms: [{ room: 'orders', since: `abcdefgh.1.${tag}` }] } },
  ])
  next.say({ event: 'joined', id: join(next).id, data: { rooms: [{ room: 'orders', position: `abcdefgh.1.${tag}`, recovered: true, replayed: 1 }], denied: [], done: true } })
  next.say(event(2))
  socket.say(event(3)) // of the dead connection
  assert.deepEqual(got.filter(Number), [1, 2])
})

test('the rooms that one is in anyway go on from a position too, and each state is told once', async (t) => {
  const { client, socket, got } = await joined(t, 0)
  client.join('$user', { event: (f) => got.push(f.data), resync: (reason) => got.push(reason) })
  await turn()
  const answer = (/** @type {object} */ room) => ({ event: 'joined', id: join(Socket.all.at(-1)).id, data: { rooms: [{ room: '$user', ...room }], denied: [], done: true } })
  socket.say(answer({ position: `mnopqrst.4.${tag}`, recovered: false, reason: 'fresh' }))
  socket.end(1006)
  t.mock.timers.tick(1_000)
  const next = await connected('c2')
  next.say({ event: 'joined', data: { rooms: [{ room: '$user', position: `mnopqrst.5.${tag}`, recovered: false, reason: 'fresh' }], denied: [], done: true } })
  next.say(answer({ position: `mnopqrst.4.${tag}`, recovered: true, replayed: 1 }))
  next.say(event(5, { room: '$user', position: `mnopqrst.5.${tag}` }))
  t.mock.timers.tick(0)
  assert.deepEqual(got, ['fresh', 'reconnecting', 'connected', 5])
})

test('told of a loss: position first, then, when it is time, the state', async (t) => {
  const { socket, got } = await joined(t, 5)
  socket.say({ event: 'resync', data: { room: 'orders', position: `ijklmnop.2.${tag}`, reason: 'epoch', after: 700 } })
  socket.say(event(3, { position: `ijklmnop.3.${tag}` }))
  assert.deepEqual(got, [3])
  t.mock.timers.tick(700)
  assert.deepEqual(got, [3, `epoch ijklmnop.2.${tag}`])
  socket.end(1006)
  t.mock.timers.tick(1_000)
  const next = await connected('c2')
  next.say({ event: 'joined', id: join(next).id, data: { rooms: [{ room: 'orders', position: `ijklmnop.900.${tag}`, recovered: false, reason: 'behind', replayed: 0 }], denied: [], done: true } })
  t.mock.timers.tick(0)
  assert.equal(got.at(-1), `behind ijklmnop.900.${tag}`)
})

test('denied: a position that cannot be read is forgotten, anything else is told', async (t) => {
  const { client, socket, got } = await joined(t, 5)
  client.join('mine', { event: () => {}, denied: (code) => got.push(code) })
  await turn()
  const { id } = join(socket)
  socket.sent.length = 0
  socket.say({ event: 'joined', id, data: { rooms: [], denied: [{ room: 'orders', code: 'bad_position' }, { room: 'mine', code: 'forbidden' }], done: true } })
  await turn()
  assert.deepEqual(plain(socket.sent), [{ event: 'join', data: { rooms: ['orders'] } }])
  socket.say({ event: 'joined', id: join(socket).id, data: { rooms: [{ room: 'orders', position: `abcdefgh.9.${tag}`, recovered: false, reason: 'fresh' }], denied: [], done: true } })
  assert.deepEqual(got, ['forbidden', `fresh abcdefgh.9.${tag}`])
})

test('close codes: some are final, others are tried again', async (t) => {
  for (const code of [4003, 4006, 4011, 1000 + 11, 4010, 4005]) {
    const { socket, got, client } = await joined(t, 0)
    const before = Socket.all.length
    socket.end(code)
    t.mock.timers.tick(2_000)
    await Promise.resolve()
    await Promise.resolve()
    const final = closes[code] === 'never'
    assert.equal(Socket.all.length > before, !final, `${code}`)
    assert.equal(got.includes('offline'), final, `${code}`)
    client.close()
    t.mock.timers.reset()
  }
})

test('the wait grows, stays bounded, and differs', () => {
  const longest = (/** @type {number} */ tries) => backoff(tries, () => 1)
  assert.deepEqual([0, 1, 2, 6, 7, 50].map(longest), [1_000, 1_000, 2_000, 30_000, 30_000, 30_000])
  assert.equal(backoff(5, () => 0), 0)
})

test('a new token before the present one ends', async (t) => {
  const { socket } = await joined(t, 0)
  const expires = (seconds) => Date.now() / 1000 + seconds
  socket.say({ event: 'refreshed', data: { expires: expires(100) } })
  const asked = () => socket.sent.filter((f) => f.event === 'authenticate').length
  t.mock.timers.tick(79_000)
  assert.equal(asked(), 1) // that of the beginning
  t.mock.timers.tick(2_000)
  await Promise.resolve()
  assert.equal(asked(), 2)
  socket.say({ event: 'refreshed', data: { expires: expires(100) } })
  t.mock.timers.tick(81_000)
  await Promise.resolve()
  assert.equal(asked(), 3)
})

test('a room that is taken back is not joined again', async (t) => {
  const { socket, client } = await joined(t, 0)
  const told = []
  client.join('stock', { event: () => {}, denied: (code) => told.push(code) })
  socket.say({ event: 'room.access.revoked', data: { room: 'stock' } })
  assert.deepEqual(told, ['forbidden'])
  socket.end(1001)
  t.mock.timers.tick(1_000)
  const again = await connected('c2')
  assert.deepEqual(again.sent.filter((f) => f.event === 'join').map((f) => f.data.rooms.map((r) => r.room ?? r)), [['orders']])
})

test('the node takes a room away: it is denied, and not joined again', async (t) => {
  const { client, socket, got } = await joined(t, 3)
  client.join('other', { event: () => {}, denied: (code) => got.push(code) })
  socket.say({ event: 'left', data: { rooms: ['other'] }, id: 'leave' }) // an answer
  assert.deepEqual(got, [])
  socket.say({ event: 'left', data: { rooms: ['other'] } })
  assert.deepEqual(got, ['forbidden'])
  socket.end(1001)
  t.mock.timers.tick(2_000)
  const next = await connected('c2')
  assert.deepEqual(next.sent.at(-1).data.rooms.map((/** @type {any} */ r) => r.room ?? r), ['orders'])
})

test('an application that does not say is asked again', async (t) => {
  const { client, socket, got } = await joined(t, 3)
  client.join('other', { event: () => {}, denied: (code) => got.push(code) })
  await turn()
  const before = socket.sent.length
  socket.say({ event: 'joined', id: join(socket).id, data: { rooms: [], denied: [{ room: 'other', code: 'unavailable' }], done: true } })
  socket.say({ event: 'left', data: { rooms: ['other'] } }) // as it is at a refresh
  t.mock.timers.tick(6_000)
  await turn()
  assert.deepEqual(plain(socket.sent.slice(before)), [{ event: 'join', data: { rooms: ['other'] } }])
  assert.deepEqual(got, [])
})

/** What moves between rooms the node is asked for. @param {Socket} socket */
const moves = (socket) => socket.sent.filter((f) => f.event === 'join' || f.event === 'leave')

test('moves of one turn go together, a hundred names at a time', async (t) => {
  const { client, socket } = await joined(t, 0)
  socket.sent.length = 0
  const names = Array.from({ length: 250 }, (_, i) => `r${i}`)
  for (const name of names) client.join(name, { event: () => {} })
  client.leave('r249')
  client.leave('orders')
  client.join('orders', { event: () => {} })
  assert.throws(() => client.join(/** @type {any} */ (undefined), { event: () => {} }), TypeError)
  await turn()
  assert.deepEqual(moves(socket).map((f) => [f.event, f.data.rooms.length]), [['leave', 1], ['join', 100], ['join', 100], ['join', 50]])
  socket.sent.length = 0
  for (const name of names) client.leave(name)
  await turn()
  assert.deepEqual(moves(socket).map((f) => [f.event, f.data.rooms.length]), [['leave', 100], ['leave', 100], ['leave', 50]])
})

test('a move that is refused is split, tried again, or told; of what the page still wants', async (t) => {
  const { client, socket, got } = await joined(t, 0)
  const names = Array.from({ length: 80 }, (_, i) => `r${i}`)
  for (const name of names) client.join(name, { event: () => {}, denied: (code) => got.push(`${name} ${code}`) })
  await turn()
  let [last] = moves(socket).slice(-1)
  const refuse = async (/** @type {string} */ code, wait = 0) => {
    socket.sent.length = 0
    socket.say({ event: 'error', id: last.id, data: { code } })
    t.mock.timers.tick(wait)
    await turn()
    last = moves(socket).at(-1)
    return moves(socket).map((f) => `${f.event} ${f.data.rooms.length}`)
  }
  client.leave('r0')
  await turn()
  assert.deepEqual(await refuse('too_many_rooms'), ['leave 1', 'join 40', 'join 39'])
  for (const [code, wait] of /** @type {[string, number][]} */ ([['busy', 5_000], ['rate_limited', 10_000], ['unavailable', 20_000]])) {
    assert.deepEqual(await refuse(code, wait - 1), [])
    t.mock.timers.tick(1)
    await turn()
    assert.deepEqual(moves(socket).map((f) => `${f.event} ${f.data.rooms.length}`), ['join 39'])
    last = moves(socket).at(-1)
  }
  assert.deepEqual(got, [])
  assert.deepEqual(await refuse('bad_request'), [])
  assert.deepEqual(got, names.slice(41).map((name) => `${name} bad_request`))
  client.leave('orders')
  await turn()
  last = moves(socket).at(-1)
  assert.deepEqual(await refuse('busy', 60_000), ['leave 1'])
})

test('a node of small limits: eight frames in a second', async (t) => {
  const { client, socket } = await joined(t, 0)
  const names = Array.from({ length: 20 }, (_, i) => `r${i}`), entered = new Set()
  socket.sent.length = 0
  for (const name of names) client.join(name, { event: () => {} })
  for (let second = 0; second < 6 && entered.size < names.length; second++) {
    await turn()
    assert.ok(moves(socket).length <= 8)
    for (let some = moves(socket); some.length > 0; some = moves(socket)) {
      socket.sent.length = 0
      for (const { id, data: { rooms: [name, more] } } of some) {
        if (more !== undefined) socket.say({ event: 'error', id, data: { code: 'too_many_rooms' } })
        else socket.say({ event: 'joined', id, data: { rooms: [{ room: name, position: `abcdefgh.0.${tag}`, recovered: false, reason: 'fresh' }], denied: [], done: true } })
        if (more === undefined) entered.add(name)
      }
      await turn()
      assert.ok(moves(socket).length <= 8)
    }
    t.mock.timers.tick(1_000)
  }
  assert.deepEqual([...entered].sort(), names.sort())
})

test('what waits for another try is over with the connection, and the wait with a success', async (t) => {
  const { client, socket, got } = await joined(t, 0)
  client.join('other', { event: () => {}, denied: (code) => got.push(code) })
  await turn()
  const unavailable = { rooms: [], denied: [{ room: 'other', code: 'unavailable' }], done: true }
  socket.say({ event: 'joined', id: join(socket).id, data: unavailable })
  socket.end(1006)
  t.mock.timers.tick(1_000)
  const next = await connected('c2')
  next.say({ event: 'joined', data: { rooms: [], denied: [{ room: 'other', code: 'forbidden' }], done: true } }) // nobody has asked
  next.say({ event: 'joined', id: join(next).id, data: { rooms: [{ room: 'other', position: `abcdefgh.0.${tag}`, recovered: false, reason: 'fresh' }], denied: [], done: true } })
  next.sent.length = 0
  t.mock.timers.tick(60_000)
  await turn()
  assert.deepEqual([moves(next), got.filter((x) => x === 'forbidden')], [[], []])
  for (const wait of [5_000, 10_000, 5_000]) {
    client.join('again', { event: () => {} })
    await turn()
    next.say({ event: 'joined', id: join(next).id, data: { rooms: [], denied: [{ room: 'again', code: 'unavailable' }], done: true } })
    next.sent.length = 0
    t.mock.timers.tick(wait - 1)
    await turn()
    assert.deepEqual(moves(next), [])
    t.mock.timers.tick(1)
    await turn()
    assert.equal(moves(next).length, 1)
    if (wait === 10_000) next.say({ event: 'joined', id: join(next).id, data: { rooms: [{ room: 'again', position: `abcdefgh.0.${tag}`, recovered: false, reason: 'fresh' }], denied: [], done: true } })
  }
})

test('connected: when every join is answered, and not while the node has lost Redis', async (t) => {
  const { client, socket, got } = await joined(t, 0)
  const say = (/** @type {Socket} */ to, /** @type {string} */ event) => to.say({ event, data: {} })
  const answer = (/** @type {Socket} */ to, { id } = join(to)) => to.say({ event: 'joined', id, data: { rooms: [], denied: [], done: true } })
  say(socket, 'restored')
  say(socket, 'degraded')
  client.join('other', { event: () => {} })
  await turn()
  answer(socket)
  assert.deepEqual(got, ['degraded'])
  say(socket, 'restored')
  assert.deepEqual(got, ['degraded', 'connected'])
  client.join('another', { event: () => {} })
  await turn()
  socket.end(1006) // with a join that is not answered
  t.mock.timers.tick(1_000)
  const next = await connected('c2')
  say(next, 'degraded')
  say(next, 'restored')
  assert.deepEqual(got.slice(2), ['reconnecting', 'degraded'])
  answer(next)
  assert.deepEqual(got.slice(2), ['reconnecting', 'degraded', 'connected'])
})

test('a page that leaves and comes again is not told of the join in between, and its faults stay in their room', async (t) => {
  const { client, socket, got } = await joined(t, 0)
  client.join('a', { event: () => {}, resync: () => { throw new Error('of the page') }, denied: (code) => got.push(code) })
  client.join('b', { event: (f) => got.push(f.data), resync: (reason) => got.push(reason) })
  await turn()
  const { id } = join(socket)
  socket.say({ event: 'joined', id: 'j0', data: { rooms: [], denied: [{ room: 'a', code: 'superseded' }], done: true } })
  const fresh = (/** @type {string} */ room) => ({ room, position: `abcdefgh.0.${tag}`, recovered: false, reason: 'fresh' })
  socket.say({ event: 'joined', id, data: { rooms: [fresh('a'), fresh('b')], denied: [], done: true } })
  socket.say(event(1, { room: 'b' }))
  assert.deepEqual(got, ['fresh', 1])
  assert.throws(() => t.mock.timers.tick(0), /of the page/) // it is told where the page's faults are
})

test('an event is answered, or it is not known what became of it', async (t) => {
  const { client, socket } = await joined(t, 0)
  const first = client.publish('orders', 'n', 1, 'e-1'), second = client.publish('orders', 'n', 2, 'e-2'), third = client.publish('orders', 'n', 3, 'e-3')
  const [a, b] = socket.sent.slice(-3).map((f) => f.id)
  socket.say({ event: 'error', data: { code: 'forbidden' }, id: b })
  socket.say({ event: 'ack', data: { eventId: 'c:x:e-1' }, id: a })
  assert.deepEqual(await first, { eventId: 'c:x:e-1' })
  assert.equal((await second).code, 'forbidden')
  socket.end(1001)
  assert.equal((await third).code, 'unavailable')
  assert.equal((await client.publish('orders', 'n', 4, 'e-4')).code, 'unavailable')
})

test('with tickets: another one for each connection, also after one that was no good', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout', 'Date'] })
  Socket.all = []
  let tickets = 0
  const urls = /** @type {string[]} */ ([]), states = /** @type {any[]} */ ([])
  class Noted extends Socket { /** @param {string} url */ constructor(url) { super(); urls.push(url) } }
  const client = new Client({ url: async () => `ws://node/ws?ticket=${++tickets}`, WebSocket: /** @type {any} */ (Noted), state: (s) => states.push(s) })
  t.after(() => client.close())
  for (let i = 1; i <= 2; i++) {
    for (let k = 0; k < 5; k++) await Promise.resolve()
    const socket = /** @type {Socket} */ (Socket.all.at(-1))
    socket.onopen()
    assert.deepEqual(socket.sent, [])
    socket.end(4003)
    t.mock.timers.tick(2_000)
  }
  assert.deepEqual(urls, ['ws://node/ws?ticket=1', 'ws://node/ws?ticket=2'])
  assert.ok(!states.includes('offline'))
})

test('events of the page\'s own: answers in any order, and events for this client alone', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout', 'Date'] })
  Socket.all = []
  const got = /** @type {any[]} */ ([])
  const client = new Client({ url: 'ws://node/ws', token: () => 'token', WebSocket: /** @type {any} */ (Socket), event: (f) => got.push(f.event, f.data) })
  t.after(() => client.close())
  assert.equal((await client.send('echo', 0)).code, 'unavailable') // without a connection
  const socket = await connected('c1')
  assert.throws(() => client.send('join', { rooms: [] }), TypeError)
  const first = client.send('echo', { n: 1 }), second = client.send('log'), third = client.send('no')
  const sent = socket.sent.filter((f) => f.id)
  assert.deepEqual(sent.map(({ event, data }) => [event, data]), [['echo', { n: 1 }], ['log', undefined], ['no', undefined]])
  socket.say({ event: 'echo:response', data: { n: 1 }, eventId: 'e-1' })
  socket.say({ event: 'ack', id: sent[1].id })
  socket.say({ event: 'ack', data: { taken: 1 }, id: sent[0].id })
  socket.say({ event: 'error', data: { code: 'unavailable', retryAfter: 2000 }, id: sent[2].id })
  socket.say({ event: 'auth.revoked', data: {} }) // which is no event of the application's
  assert.deepEqual(await first, { taken: 1 })
  assert.equal(await second, null)
  assert.equal((await third).retryAfter, 2000)
  assert.deepEqual(got, ['echo:response', { n: 1 }])
})
