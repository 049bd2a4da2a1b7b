// Package proto is what every part of Signal agrees on: names, targets, the
// frames on a client's connection, the messages on Redis, and the tables of
// error and close codes.
//
// It imports only the standard library, does no I/O and keeps no state. Whatever
// comes from outside is decoded here, so that it is judged in one place: every
// decoder returns a value or an error with a class, and never panics. The wire as
// data, for other languages, is testdata/vectors.json.
package proto
