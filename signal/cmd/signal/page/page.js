// The demo page: two panes, each a client of a node of its choice. Ten lines of it
// (Pane.connect) are all that a till needs.

/** @typedef {{nodes: string[], token: string, room: string, gate: boolean, closes: {code: number, reconnect: string}[]}} Demo */

const demo = /** @type {Demo} */ (await (await fetch('demo.json')).json())

class Pane {
  #socket = /** @type {WebSocket | null} */ (null)
  #tries = 0
  #timer = 0
  #root
  #node

  /** @param {string} name @param {number} node */
  constructor(name, node) {
    const template = /** @type {HTMLTemplateElement} */ (document.querySelector('#pane'))
    this.#root = /** @type {HTMLElement} */ (template.content.firstElementChild?.cloneNode(true))
    this.#root.id = name
    this.#find('h2').textContent = name
    this.#node = /** @type {HTMLSelectElement} */ (this.#find('select'))
    demo.nodes.forEach((address, i) => this.#node.add(new Option(`${i + 1}: ${address}`, address)))
    this.#node.selectedIndex = node
    this.#node.addEventListener('change', () => { this.#tries = 0; this.connect() })
    document.querySelector('#panes')?.append(this.#root)
    this.connect()
  }

  connect() {
    clearTimeout(this.#timer)
    this.#socket?.close()
    this.#show(this.#tries ? 'reconnecting' : 'connecting')
    const socket = this.#socket = new WebSocket(`ws://${this.#node.value}/ws`)
    socket.onopen = () => socket.send(JSON.stringify({ event: 'authenticate', data: { type: 'Bearer', token: demo.token } }))
    socket.onmessage = ({ data }) => this.#receive(socket, JSON.parse(data))
    socket.onclose = ({ code }) => { if (socket === this.#socket) this.#closed(code) }
  }

  /** @param {WebSocket} socket @param {{event: string, data?: any, room?: string}} frame */
  #receive(socket, frame) {
    switch (frame.event) {
      case 'connected':
        socket.send(JSON.stringify({ event: 'join', data: { rooms: [demo.room] }, id: 'demo' }))
        break
      case 'joined':
        if (frame.data.rooms.some((/** @type {{room: string}} */ r) => r.room === demo.room)) {
          this.#tries = 0
          this.#show('connected')
        }
        break
      case 'degraded': this.#show('degraded'); break
      case 'restored': this.#show('connected'); break
      default: if (frame.room) this.#list(frame)
    }
  }

  /** @param {number} code */
  #closed(code) {
    const rule = demo.closes.find((c) => c.code === code)?.reconnect ?? 'backoff'
    if (rule === 'never') return this.#show('offline')
    this.#show(this.#tries < 8 ? 'reconnecting' : 'offline')
    const wait = Math.min(30_000, 500 * 2 ** Math.min(this.#tries++, 6)) * (0.8 + 0.4 * Math.random()) // milliseconds
    this.#timer = setTimeout(() => this.connect(), wait)
  }

  /** @param {{event: string, data?: any}} frame */
  #list(frame) {
    const item = document.createElement('li')
    const name = document.createElement('b')
    name.textContent = frame.event
    item.append(name, JSON.stringify(frame.data))
    this.#find('ol').prepend(item)
    while (this.#find('ol').children.length > 20) this.#find('ol').lastElementChild?.remove()
  }

  /** @param {string} state */
  #show(state) {
    const status = this.#find('.status')
    status.textContent = state
    status.dataset.state = state
  }

  /** @param {string} selector */
  #find(selector) { return /** @type {HTMLElement} */ (this.#root.querySelector(selector)) }
}

/** @param {string} path @param {any} [body] */
async function post(path, body) {
  const r = await fetch(path, { method: 'POST', body: body && JSON.stringify(body) })
  const answer = document.querySelector('#answer')
  if (answer) answer.textContent = `${path} → ${await r.text()}`
}

document.querySelector('#sale')?.addEventListener('click', () => post('sale'))
document.querySelector('#ping')?.addEventListener('click', () => post('ping'))
const bus = /** @type {HTMLInputElement} */ (document.querySelector('#bus'))
bus.disabled = !demo.gate
bus.addEventListener('change', () => post('bus', { on: bus.checked }))

new Pane('till', 0)
new Pane('admin', Math.min(1, demo.nodes.length - 1))
