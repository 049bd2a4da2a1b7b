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
// An Emitter is safe for concurrent use, starts no goroutine and keeps no events:
// a Send has succeeded or failed when it returns. Every event is live in this
// version: at most once, never stored.
package emitter
