// Encryption of one connection with WebCrypto: ECDH on P-256, HKDF-SHA-256, AES-256-GCM.
//   new Client({ url, token, sealing: () => Sealing.offer() })

const info = 'ignis-ecdh-p256-aes-256-gcm-v1', curve = { name: 'ECDH', namedCurve: 'P-256' }

/** @param {ArrayBuffer | Uint8Array<ArrayBuffer>} bytes */
const encode = (bytes) => {
  let text = ''
  for (const b of new Uint8Array(bytes)) text += String.fromCharCode(b)
  return btoa(text)
}
/** @param {string} text */
const decode = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0))

export class Sealing {
  /** @type {CryptoKey | undefined} */ #key
  #pair

  /** @param {CryptoKeyPair} pair @param {string} publicKey @param {string} info */
  constructor(pair, publicKey, info) { this.#pair = pair; this.publicKey = publicKey; this.info = info }

  /** A key pair for one connection; its private half cannot be read. @param {string} [context] of the key derivation, if the node has another one */
  static async offer(context = info) {
    const pair = await crypto.subtle.generateKey(curve, false, ['deriveBits'])
    return new Sealing(pair, encode(await crypto.subtle.exportKey('raw', pair.publicKey)), context)
  }

  /** The frame in one from the node. The first is connected; if the node has no key for us, or says anything in the open later, this throws.
   * @param {import('./client.js').Frame} frame @returns {Promise<import('./client.js').Frame>} */
  async open(frame) {
    const { event, data } = frame
    if (!this.#key) {
      if (event === 'connected') await this.#agree(data)
      return frame // errors, until it is known who we are
    }
    if (event !== 'encrypted') throw new Error('the node said something in the open')
    const plain = await crypto.subtle.decrypt({ name: 'AES-GCM', iv: decode(data.iv) }, this.#key, decode(data.ct))
    return JSON.parse(new TextDecoder().decode(plain))
  }

  /** @param {{serverPublicKey?: string, salt?: string}} data */
  async #agree({ serverPublicKey, salt }) {
    if (!serverPublicKey || !salt) throw new Error('the node does not encrypt')
    const server = await crypto.subtle.importKey('raw', decode(serverPublicKey), curve, false, [])
    const shared = await crypto.subtle.deriveBits({ name: 'ECDH', public: server }, this.#pair.privateKey, 256)
    const base = await crypto.subtle.importKey('raw', shared, 'HKDF', false, ['deriveKey'])
    const from = { name: 'HKDF', hash: 'SHA-256', salt: decode(salt), info: new TextEncoder().encode(this.info) }
    this.#key = await crypto.subtle.deriveKey(from, base, { name: 'AES-GCM', length: 256 }, false, ['encrypt', 'decrypt'])
  }

  /** @param {string} text a frame; as it is while there is no key @returns {Promise<string>} */
  async seal(text) {
    if (!this.#key) return text
    const iv = crypto.getRandomValues(new Uint8Array(12))
    const ct = await crypto.subtle.encrypt({ name: 'AES-GCM', iv }, this.#key, new TextEncoder().encode(text))
    return JSON.stringify({ event: 'encrypted', data: { iv: encode(iv), ct: encode(ct) } })
  }
}
