// Package bench plays the tills of a running node and measures what they cost it: CPU for
// a delivery, latency, memory for a connection. It speaks to the node over its WebSocket
// and publishes on Redis as services do, and it holds against each client every event that
// it was to get: one that is lost, doubled or out of order fails the run.
//
// Beside it runs the floor: a server that does nothing but one write(2) for each delivery,
// of frames of the same length to clients that read in the same way. A figure that stands
// as a ratio to the floor of the same minute says more than microseconds on a noisy
// machine.
package bench

// RoomPrefix begins the names of all rooms of a bench.
const RoomPrefix = "bench:"
