// Package js is the browser's half: a client for pages, as they load it.
package js

import _ "embed"

// Client is client.js, an ES module.
//
//go:embed client.js
var Client []byte

// Sealed is sealed.js, what Client needs for encryption.
//
//go:embed sealed.js
var Sealed []byte
