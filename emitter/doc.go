// Package emitter is how a service tells clients that something happened.
//
// A service that links it hosts no WebSocket and knows no node: it publishes to
// Redis, and the nodes that have an audience deliver. The nodes publish with it
// too, so there is one publish path in the whole product.
//
//	e, err := emitter.FromEnv(ctx)
//	...
//	receipt, err := e.SendToRoom(ctx, "orders", "order.paid", order)
//
// An Emitter is safe for concurrent use. A Send has succeeded or failed when it returns, or
// the error says that nobody knows; then the same call with the same EventID is never a
// second copy. Events for rooms, users and everyone are durable unless they are Live:
// numbered, kept for a while, and brought to clients that were away.
package emitter
