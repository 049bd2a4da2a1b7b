// The demo page: two panes, each a client of a node of its choice. A till needs no more of it
// than Pane.connect.
import { Client } from './client.js'

/** @typedef {{nodes: string[], token: string, room: string, gate: boolean}} Demo */

const demo = /** @type {Demo} */ (await (await fetch('demo.json')).json())

class Pane {
  #client = /** @type {Client | null} */ (null)
  #positions = new Map() // kept over clients: the next one gets what this one missed
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
    this.#node.addEventListener('change', () => this.connect())
    document.querySelector('#panes')?.append(this.#root)
    this.connect()
  }

  connect() {
    this.#client?.close()
    this.#client = new Client({
      url: `ws://${this.#node.value}/ws`,
      token: () => demo.token,
      positions: this.#positions,
      state: (state) => this.#show(state),
    })
    this.#client.join(demo.room, { event: (frame) => this.#list(frame) })
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
