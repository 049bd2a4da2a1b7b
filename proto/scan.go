package proto

import (
	"errors"
	"unicode/utf8"
)

// What is wrong with a JSON text. One pass over its bytes finds out all of it: every event
// of every room is scanned once on each node, and encoding/json would take four times as
// long (FuzzCheckData holds the two against each other).
var (
	errNotJSON = errors.New("is not JSON")
	errNotUTF8 = errors.New("is not valid UTF-8")
	errTooDeep = errors.New("is nested too deep")
)

// scanValue returns the end of the JSON value (RFC 8259) that begins at i, which may be
// nested as deep as most says.
func scanValue(b []byte, i, most int) (end int, err error) {
	if i == len(b) {
		return i, errNotJSON
	}
	switch c := b[i]; {
	case c == '"':
		return scanString(b, i)
	case c == '{' || c == '[':
		if most == 0 {
			return i, errTooDeep
		}
		if c == '{' {
			return scanObject(b, i, most)
		}
		return scanList(b, i, most)
	case c == '-' || '0' <= c && c <= '9':
		return scanNumber(b, i)
	}
	for _, word := range [...]string{"true", "false", "null"} {
		if end := i + len(word); end <= len(b) && string(b[i:end]) == word {
			return end, nil
		}
	}
	return i, errNotJSON
}

func scanObject(b []byte, i, most int) (end int, err error) {
	if i = skipSpace(b, i+1); i < len(b) && b[i] == '}' {
		return i + 1, nil
	}
	for {
		if i == len(b) || b[i] != '"' {
			return i, errNotJSON
		}
		if i, err = scanString(b, i); err != nil {
			return i, err
		}
		if i = skipSpace(b, i); i == len(b) || b[i] != ':' {
			return i, errNotJSON
		}
		if i, err = scanValue(b, skipSpace(b, i+1), most-1); err != nil {
			return i, err
		}
		if i = skipSpace(b, i); i == len(b) {
			return i, errNotJSON
		}
		switch b[i] {
		case ',':
			i = skipSpace(b, i+1)
		case '}':
			return i + 1, nil
		default:
			return i, errNotJSON
		}
	}
}

func scanList(b []byte, i, most int) (end int, err error) {
	if i = skipSpace(b, i+1); i < len(b) && b[i] == ']' {
		return i + 1, nil
	}
	for {
		if i, err = scanValue(b, i, most-1); err != nil {
			return i, err
		}
		if i = skipSpace(b, i); i == len(b) {
			return i, errNotJSON
		}
		switch b[i] {
		case ',':
			i = skipSpace(b, i+1)
		case ']':
			return i + 1, nil
		default:
			return i, errNotJSON
		}
	}
}

func scanString(b []byte, i int) (end int, err error) {
	for i++; i < len(b); {
		switch c := b[i]; {
		case c == '"':
			return i + 1, nil
		case c == '\\':
			if i, err = scanEscape(b, i); err != nil {
				return i, err
			}
		case c < ' ':
			return i, errNotJSON
		case c < utf8.RuneSelf:
			i++
		default:
			r, n := utf8.DecodeRune(b[i:])
			if r == utf8.RuneError && n == 1 {
				return i, errNotUTF8
			}
			i += n
		}
	}
	return i, errNotJSON
}

func scanEscape(b []byte, i int) (end int, err error) {
	if i+1 == len(b) {
		return i, errNotJSON
	}
	switch b[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 2, nil
	case 'u':
		for n := range 4 {
			if i+2+n >= len(b) || !isHex(b[i+2+n]) {
				return i, errNotJSON
			}
		}
		return i + 6, nil
	}
	return i, errNotJSON
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func scanNumber(b []byte, i int) (end int, err error) {
	digits := func() bool {
		from := i
		for i < len(b) && '0' <= b[i] && b[i] <= '9' {
			i++
		}
		return i > from
	}
	if b[i] == '-' {
		i++
	}
	if i < len(b) && b[i] == '0' {
		i++
	} else if !digits() {
		return i, errNotJSON
	}
	if i < len(b) && b[i] == '.' {
		if i++; !digits() {
			return i, errNotJSON
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if !digits() {
			return i, errNotJSON
		}
	}
	return i, nil
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}
