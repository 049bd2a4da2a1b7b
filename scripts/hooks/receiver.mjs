// A receiver of Signal's hooks: HOOK_SECRET=… node receiver.mjs 127.0.0.1:3000
import { createHmac, timingSafeEqual } from 'node:crypto'
import { createServer } from 'node:http'

const answers = {
  '/auth': ({ token }) => (token === 'letmein' ? [200, { userId: 'cashier-7', rooms: ['orders'] }] : [401]), // in place of authenticateFn
  '/rooms': ({ rooms }) => [200, { rooms }], // validateRoomFn
  '/message': ({ event, data }) => [200, { events: [{ event: `${event}:response`, data }] }], // messageHandler
  '/notices': ({ notices }) => { // clientConnectedFn, clientDisconnectedFn
    for (const notice of notices) console.log(notice)
    return [204]
  },
}

/** Whether it is Signal who asks, and now: t=<seconds>,v1=<hex>. */
function signed(header, body) {
  const [, t, given] = /^t=(\d+),v1=([0-9a-f]{64})$/.exec(header ?? '') ?? []
  if (!t || Math.abs(Date.now() / 1000 - t) > 300) return false
  const sum = createHmac('sha256', process.env.HOOK_SECRET).update(`${t}.`).update(body).digest()
  return timingSafeEqual(sum, Buffer.from(given, 'hex'))
}

const server = createServer(async (request, response) => {
  const chunks = []
  let size = 0
  for await (const chunk of request) {
    if ((size += chunk.length) > 1 << 20) return response.writeHead(413).end()
    chunks.push(chunk)
  }
  const body = Buffer.concat(chunks), answer = answers[request.url]
  if (!answer || !signed(request.headers['signal-signature'], body)) return response.writeHead(400).end()
  const [status, said] = answer(JSON.parse(body))
  response.writeHead(status, { 'content-type': 'application/json' }).end(said && JSON.stringify(said))
})

const [host, port] = process.argv[2].split(':')
server.listen(port, host, () => console.log('listening on', `${host}:${server.address().port}`))
