// A till's connection that misses nothing without being told: it keeps a position in each room,
// joins again from there, and asks its application for the present state where that is not enough.

/** @typedef {{event: string, data?: any, room?: string, eventId?: string, sequence?: number, position?: string, id?: string, schemaVersion?: number}} Frame */
/** @typedef {{event: (frame: Frame) => void, resync?: (reason: string, position: string) => void, denied?: (code: string) => void}} Handlers */
/** @typedef {{url: string | (() => string | Promise<string>), token?: () => string | Promise<string>, state?: (state: string, code?: number) => void,
 *   event?: (frame: Frame) => void, sealing?: () => Promise<import('./sealed.js').Sealing>, positions?: Map<string, string>, WebSocket?: new (url: string) => WebSocket, random?: () => number}} Options */

/** What to do after a close code: never connect again, or get a new token first. Others: try again. */
export const closes = /** @type {Record<number, 'never' | 'token'>} */ ({
  4003: 'never', 4004: 'never', 4005: 'token', 4006: 'never', 4009: 'never', 4011: 'never',
})

const knownIds = 1024 // of the last events of a room
const namesAtOnce = 100, framesAtOnce = 8 // in a frame, and of them in a second: a node has limits
const rejoinEvery = 5_000, rejoinMost = 60_000, stable = 60_000 // milliseconds: between joins of a room that is stuck; of a good connection

/** @param {number} tries @param {() => number} random milliseconds to wait: all clients that were lost together come back apart */
export function backoff(tries, random = Math.random) {
  return tries === 0 ? random() * 1_000 : random() * Math.min(30_000, 500 * 2 ** Math.min(tries, 16))
}

/** @param {string} code of an error @returns whether the same may succeed later */
const passes = (code) => code === 'busy' || code === 'rate_limited' || code === 'unavailable'

const ours = new Set(['authenticate', 'join', 'leave', 'publish', 'heartbeat', 'encrypted'])
const away = { code: 'unavailable', message: 'Not available at the moment' }

/** @param {string} position @returns {[string, number]} */
const parse = (position) => [position.split('.')[0], Number(position.split('.')[1])]

/** A room as this client knows it. */
class Room {
  rejoinAt = 0 // not before
  /** @type {Set<string>} */ ids = new Set()

  /** @param {Handlers} handlers @param {string} position */
  constructor(handlers, position = '') { this.handlers = handlers; this.position = position }

  /** @param {string | undefined} id @returns whether the event is new */
  isNew(id) {
    if (id === undefined) return true
    if (this.ids.has(id)) return false
    this.ids.add(id)
    if (this.ids.size > knownIds) this.ids.delete(/** @type {string} */ (this.ids.values().next().value))
    return true
  }

  /** @param {string} position @returns how many events it is after the room's; NaN in another incarnation */
  ahead(position) {
    const [epoch, sequence] = parse(this.position), [e, s] = parse(position)
    return e === epoch ? s - sequence : NaN
  }
}

export class Client {
  /** @type {Map<string, Room>} */ #rooms = new Map()
  /** @type {WebSocket | undefined} */ #socket
  #options
  #previous = '' // id of the connection before
  #ready = false // authenticated
  #asked = 0
  /** @type {Map<string, (answer: any) => void>} */ #answers = new Map() // that events wait for
  // The page says in which rooms it wants to be (#rooms), and this client brings that to the node: joins those, leaves others.
  /** @type {Set<string>} */ #changed = new Set() // rooms to be joined or left when this turn of the page's is over
  /** @type {Set<string>} */ #waiting = new Set() // rooms to be joined or left when the node, or the application, may be able to
  /** @type {Map<string, {event: string, names: string[]}>} */ #moves = new Map() // joins and leaves that are not answered yet, by id
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #later // #waiting
  #refusals = 0 // since a room was joined
  #most = namesAtOnce
  /** @type {import('./sealed.js').Sealing | undefined} */ #sealing // of the present connection
  #sent = Promise.resolve() // while frames are sealed
  #told = '' // the state that the application knows
  #closed = false
  #tries = 0
  #opened = Infinity // when
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #timer
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #refresh

  /** @param {Options} options positions are those of an earlier client of this page, by room; this one keeps them up to date */
  constructor(options) {
    const { url, token, random = Math.random, positions = new Map(), state = () => {}, event = () => {}, sealing, WebSocket = globalThis.WebSocket } = options
    if (!WebSocket) throw new TypeError('there is no WebSocket: give one in the options')
    this.#options = { url, token, random, positions, state, event, sealing, WebSocket }
    this.#connect()
  }

  /** Joins a room: "$user" and "$broadcast" are the client's own and everyone's.
   * @param {string} name @param {Handlers} handlers */
  join(name, handlers) {
    if (typeof name !== 'string') throw new TypeError('a room has a name') // it would be refused with all others of its frame
    const position = this.#options.positions.get(name)
    this.#rooms.set(name, new Room(handlers, typeof position === 'string' ? position : ''))
    this.#move(name)
  }

  /** @param {string} name */
  leave(name) {
    this.#rooms.delete(name)
    this.#options.positions.delete(name)
    this.#move(name)
  }

  /** Sends an event to a room. The answer is the node's: an ack {eventId, sequence, position, duplicate}, or an error {code, message}.
   * Without a connection, or when it is lost before the answer, that is {code: 'unavailable'}: nobody knows whether it was sent,
   * and to send it again under the same id does no harm.
   * @param {string} room @param {string} event @param {any} data @param {string} eventId @returns {Promise<any>} */
  publish(room, event, data, eventId) { return this.#ask('publish', { room, event, data, eventId }) }

  /** Says something to the application, which may answer with events for this client alone (the option event). The answer here is
   * what it gives with its acknowledgement, null if it gives nothing, or an error {code, message, retryAfter?}, retryAfter in milliseconds.
   * @param {string} event @param {any} [data] @returns {Promise<any>} */
  send(event, data) {
    if (ours.has(event)) throw new TypeError(`"${event}" is an event of Signal's own`)
    return this.#ask(event, data)
  }

  /** @param {string} event @param {any} data @returns {Promise<any>} */
  #ask(event, data) {
    if (!this.#ready) return Promise.resolve(away)
    const id = `p${++this.#asked}`
    this.#say(event, data, id)
    return new Promise((answer) => this.#answers.set(id, answer))
  }

  close() {
    this.#closed = true
    this.#answered()
    clearTimeout(this.#later)
    clearTimeout(this.#timer)
    clearTimeout(this.#refresh)
    this.#socket?.close(1000)
  }

  /** Tells the application of another state. @param {string} state @param {number} [code] */
  #tell(state, code) {
    if (state === 'connected' && this.#told === state) return
    this.#options.state(this.#told = state, code)
  }

  async #connect() {
    if (!this.#tries) this.#tell('connecting')
    let url, token, sealing
    try {
      url = this.#options.url
      if (typeof url !== 'string') url = await url()
      token = this.#options.token && await this.#options.token()
      sealing = this.#options.sealing && await this.#options.sealing()
    } catch { return this.#again() }
    if (this.#closed) return
    const socket = this.#socket = new this.#options.WebSocket(url)
    this.#sealing = sealing
    this.#sent = Promise.resolve()
    socket.onopen = () => token !== undefined && this.#say('authenticate', {
      type: 'Bearer', token, ...(this.#previous && { previous: this.#previous }), ...(sealing && { publicKey: sealing.publicKey }),
    })
    socket.onmessage = ({ data }) => { if (socket === this.#socket) this.#receive(JSON.parse(data)) }
    if (sealing) this.#open(socket, sealing)
    socket.onclose = ({ code }) => { if (socket === this.#socket) this.#ended(code) }
  }

  /** Frames are opened one after the other; one that is not sealed as it should be ends the connection for good.
   * @param {WebSocket} socket @param {import('./sealed.js').Sealing} sealing */
  #open(socket, sealing) {
    let opened = Promise.resolve()
    socket.onmessage = ({ data }) => {
      opened = opened.then(async () => {
        if (socket !== this.#socket || socket.readyState !== 1) return
        let frame
        try { frame = await sealing.open(JSON.parse(data)) } catch {
          socket.close(4004)
          this.#socket = undefined
          return this.#ended(4004)
        }
        if (socket !== this.#socket) return
        try { this.#receive(frame) } catch (error) { setTimeout(() => { throw error }) } // the page's, as if it were in the open
      })
    }
  }

  /** @param {number} code */
  #ended(code) {
    this.#ready = false
    this.#answered()
    this.#moves.clear()
    clearTimeout(this.#later)
    clearTimeout(this.#refresh)
    if (Date.now() - this.#opened > stable) this.#tries = 0
    this.#opened = Infinity
    if (this.#closed) return
    const ticket = code === 4003 && !this.#options.token // another one may be good
    if (closes[code] === 'never' && !ticket) return this.#tell('offline', code)
    this.#again(code)
  }

  /** @param {number} [code] */
  #again(code) {
    this.#tell('reconnecting', code)
    this.#timer = setTimeout(() => this.#connect(), backoff(this.#tries++, this.#options.random))
  }

  /** @param {string} event @param {any} data @param {string} [id] */
  #say(event, data, id) {
    const socket = this.#socket, text = JSON.stringify({ event, data, id })
    if (socket?.readyState !== 1) return
    if (!this.#sealing) return socket.send(text)
    const sealed = this.#sealing.seal(text)
    this.#sent = this.#sent.then(async () => socket.send(await sealed))
  }

  /** Shows a new token when four fifths of this one's life are over: the connection would end with it.
   * @param {number | undefined} expires seconds since 1970 */
  #renew(expires) {
    clearTimeout(this.#refresh)
    const { token: renew } = this.#options
    if (!expires || !renew) return
    const socket = this.#socket, life = expires * 1000 - Date.now()
    this.#refresh = setTimeout(async () => {
      let token
      try { token = await renew() } catch { return this.#renew(expires) } // sooner each time
      if (socket === this.#socket) this.#say('authenticate', { type: 'Bearer', token })
    }, Math.min(Math.max(0.8 * life, 1_000), 2 ** 31 - 1))
  }

  /** Joins or leaves a room, with others of this turn. @param {string} name */
  #move(name) {
    if (!this.#ready) return // all are joined then
    this.#waiting.delete(name)
    if (this.#changed.add(name).size === 1) queueMicrotask(() => this.#flush())
  }

  /** Joins or leaves a room after a while. @param {string} name */
  #moveLater(name) {
    this.#waiting.add(name)
    if (this.#later !== undefined) return
    const wait = Math.min(rejoinMost, rejoinEvery * 2 ** Math.min(this.#refusals++, 16))
    this.#wait(wait * (0.8 + 0.4 * this.#options.random()))
  }

  /** @param {number} wait milliseconds, until what waits is tried */
  #wait(wait) {
    if (!this.#closed) this.#later = setTimeout(() => {
      this.#later = undefined
      for (const name of this.#waiting) this.#move(name)
    }, wait)
  }

  /** Tells the node what has changed: rooms are joined from where they are. */
  #flush() {
    const names = [...this.#changed]
    this.#changed.clear()
    if (!this.#ready) return
    let frames = 0
    for (const [event, all] of /** @type {[string, string[]][]} */ ([
      ['leave', names.filter((name) => !this.#rooms.has(name))], ['join', names.filter((name) => this.#rooms.has(name))],
    ])) {
      for (let i = 0; i < all.length; i += this.#most) {
        const some = all.slice(i, i + this.#most)
        if (++frames > framesAtOnce) {
          for (const name of some) this.#waiting.add(name)
          continue
        }
        const id = `j${++this.#asked}`
        this.#moves.set(id, { event, names: some })
        this.#say(event, { rooms: some.map((room) => {
          const since = this.#rooms.get(room)?.position
          return since ? { room, since } : room
        }) }, id)
      }
    }
    if (this.#waiting.size && this.#later === undefined) this.#wait(1_000)
  }

  /** A join or a leave was refused as a whole. @param {{event: string, names: string[]}} move @param {string} code */
  #refused({ event, names }, code) {
    if (code === 'too_many_rooms' && names.length > 1) { // for this node
      this.#most = Math.min(this.#most, names.length >> 1)
      for (const name of names) this.#move(name)
    } else if (passes(code)) for (const name of names) this.#moveLater(name)
    else if (event === 'join') for (const name of names) this.#denied({ room: name, code })
    this.#settle()
  }

  /** Every join is answered: the page is told, but not while the node has lost Redis. */
  #settle() {
    for (const { event } of this.#moves.values()) if (event === 'join') return
    if (this.#told !== 'degraded') this.#tell('connected')
  }

  /** @param {Frame} frame */
  #receive(frame) {
    const { event, data } = frame
    if (frame.schemaVersion !== undefined) return this.#heard(frame) // somebody's event, whatever its name: not the node's own word
    switch (event) {
      case 'connected':
        this.#previous = data.id
        this.#ready = true
        this.#opened = Date.now()
        this.#renew(data.expires)
        this.#waiting.clear()
        this.#later = undefined
        this.#refusals = 0
        this.#changed = new Set(this.#rooms.keys())
        return this.#flush()
      case 'refreshed': return this.#renew(data.expires)
      case 'joined': {
        const asked = frame.id !== undefined // else the rooms that one is in anyway: if they matter here they are asked for, with a position
        if (asked) for (const r of data.rooms) this.#joined(r)
        for (const d of data.denied) if (asked || d.code === 'unavailable') this.#denied(d)
        if (asked && data.rooms.length) this.#refusals = 0
        if (!data.done) return
        this.#moves.delete(frame.id ?? '')
        return this.#settle()
      }
      case 'resync': return this.#lost(data.room, data.position, data.reason, data.after)
      case 'skip': return this.#advance(data.room, data.position, () => {})
      case 'room.access.revoked': return this.#revoked(data.room)
      case 'left': return frame.id === undefined ? data.rooms.forEach((/** @type {string} */ r) => this.#left(r)) : this.#moves.delete(frame.id)
      case 'ack': case 'error': {
        const { id = '' } = frame, move = this.#moves.get(id)
        if (!move) return this.#answered(id, data ?? null)
        this.#moves.delete(id)
        return this.#refused(move, data.code)
      }
      case 'degraded': return this.#tell('degraded')
      case 'restored':
        if (this.#told !== 'degraded') return
        this.#told = ''
        return this.#settle()
      case 'auth.revoked': case 'presence': case 'reconnect': return
    }
    this.#heard(frame)
  }

  /** An event of a room, or for this client alone. @param {Frame} frame */
  #heard(frame) {
    if (frame.room === undefined) return this.#options.event(frame) // for this client alone
    const room = this.#rooms.get(frame.room)
    if (!room) return
    const apply = () => { if (room.isNew(frame.eventId)) room.handlers.event(frame) }
    if (frame.position === undefined) apply() // live: it has no place
    else this.#advance(frame.room, frame.position, apply)
  }

  /** @param {{room: string, position: string, recovered: boolean, reason?: string}} r */
  #joined({ room: name, position, recovered, reason }) {
    const room = this.#rooms.get(name)
    const first = room?.position === ''
    if (!room || recovered && !first && room.position !== position) return // an answer to an earlier join
    if (!recovered && !first) return this.#lost(name, position, reason ?? 'fresh', 0)
    this.#keep(name, room, position)
    if (first) this.#call(() => room.handlers.resync?.('fresh', position)) // position first, then the state: nothing falls in between
  }

  /** What the page does wrong in one room costs no other one its answer. @param {() => void} handler */
  #call(handler) { try { handler() } catch (error) { setTimeout(() => { throw error }) } }

  /** A position that the node cannot read is as good as none. @param {{room: string, code: string}} d */
  #denied({ room: name, code }) {
    const room = this.#rooms.get(name)
    if (code === 'superseded') return // it has left since, and may have come again
    if (passes(code)) return this.#moveLater(name) // or the application does not say
    if (code !== 'bad_position' || !room?.position) return this.#call(() => room?.handlers.denied?.(code))
    room.position = ''
    this.#move(name)
  }

  /** The node has taken the client out of a room. @param {string} name */
  #left(name) { if (!this.#waiting.has(name)) this.#revoked(name) }

  /** @param {string} [id] of one answer; all that wait get none without it @param {any} [data] */
  #answered(id, data = away) {
    for (const [one, answer] of id === undefined ? [...this.#answers] : /** @type {[string, any][]} */ ([[id, this.#answers.get(id)]])) {
      this.#answers.delete(one)
      answer?.(data)
    }
  }

  /** The room is taken back: it is not joined again. @param {string} name */
  #revoked(name) {
    const room = this.#rooms.get(name)
    this.#rooms.delete(name)
    this.#call(() => room?.handlers.denied?.('forbidden'))
  }

  /** The room goes on elsewhere. @param {string} name @param {string} position @param {string} reason @param {number} after */
  #lost(name, position, reason, after) {
    const room = this.#rooms.get(name)
    if (!room) return
    this.#keep(name, room, position)
    setTimeout(() => { if (this.#rooms.get(name) === room) room.handlers.resync?.(reason, position) }, after)
  }

  /** @param {string} name @param {string} position @param {() => void} apply */
  #advance(name, position, apply) {
    const room = this.#rooms.get(name)
    if (!room || room.position === '') return
    const ahead = room.ahead(position)
    if (ahead === 1) {
      apply()
      this.#keep(name, room, position) // after it was applied: who crashes in between gets it again
    } else if (!(ahead <= 0) && Date.now() >= room.rejoinAt) {
      room.rejoinAt = Date.now() + rejoinEvery * (0.8 + 0.4 * this.#options.random())
      this.#move(name)
    }
  }

  /** @param {string} name @param {Room} room @param {string} position */
  #keep(name, room, position) {
    this.#options.positions.set(name, room.position = position)
  }
}
