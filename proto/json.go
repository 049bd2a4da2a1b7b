package proto

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// MaxDepth is the deepest nesting of a client's frame, and of an event's data. On the bus
// the data stands one deeper.
const MaxDepth = 32

// eachField calls field for every member of the JSON object in b, with its value
// as the very bytes that were sent. It is stricter than encoding/json where that
// would let two readers disagree: keys are compared exactly, a key stands once,
// the document is valid UTF-8 and not nested deeper than depth.
//
// It looks at each byte once, so field may have been called when it returns an error.
func eachField(b []byte, depth int, field func(key string, value []byte) error) error {
	i := skipSpace(b, 0)
	if i == len(b) || b[i] != '{' || depth == 0 {
		if err := checkJSON(b, depth); err != nil {
			return err
		}
		return fmt.Errorf("is %s, not a JSON object", typeOf(b[i]))
	}
	var some [8]string // most have no more keys
	seen := some[:0]
	err := func() error {
		if i = skipSpace(b, i+1); i < len(b) && b[i] == '}' {
			i++
			return nil
		}
		for {
			if i == len(b) || b[i] != '"' {
				return errNotJSON
			}
			end, err := scanString(b, i)
			if err != nil {
				return err
			}
			key, err := unquote(b[i:end])
			if err != nil {
				return err
			}
			if slices.Contains(seen, key) {
				return errors.New("has a key twice")
			}
			if seen = append(seen, key); len(seen) > 64 {
				return errors.New("has more than 64 keys")
			}
			if i = skipSpace(b, end); i == len(b) || b[i] != ':' {
				return errNotJSON
			}
			i = skipSpace(b, i+1)
			if end, err = scanValue(b, i, depth-1); err != nil {
				return err
			}
			if err := field(key, b[i:end:end]); err != nil {
				return err
			}
			if i = skipSpace(b, end); i == len(b) {
				return errNotJSON
			}
			switch b[i] {
			case ',':
				i = skipSpace(b, i+1)
			case '}':
				i++
				return nil
			default:
				return errNotJSON
			}
		}
	}()
	if err == nil && skipSpace(b, i) < len(b) {
		err = errNotJSON
	}
	return named(err, depth)
}

// eachItem calls item for every value of the JSON list in b, which has been scanned, until it returns an
// error.
func eachItem(b []byte, item func(value []byte) error) error {
	for i := skipSpace(b, 1); b[i] != ']'; {
		end, err := scanValue(b, i, MaxDepth)
		if err != nil {
			return err
		}
		if err := item(b[i:end:end]); err != nil {
			return err
		}
		if i = skipSpace(b, end); b[i] == ',' {
			i = skipSpace(b, i+1)
		}
	}
	return nil
}

// checkJSON says whether b is one JSON value in valid UTF-8, not nested deeper than most.
func checkJSON(b []byte, most int) error {
	if len(b) == 0 {
		return errors.New("is empty")
	}
	end, err := scanValue(b, skipSpace(b, 0), most)
	if err == nil && skipSpace(b, end) < len(b) {
		err = errNotJSON
	}
	return named(err, most)
}

// named is err, with the depth that was allowed.
func named(err error, most int) error {
	if err == errTooDeep {
		return fmt.Errorf("is nested deeper than %d", most)
	}
	return err
}

// CheckData says whether b may be the data of an event: one JSON value in valid
// UTF-8, nested at most MaxDepth deep. A browser drops the connection at a frame
// that is not UTF-8, so this keeps one producer's mistake from a room's clients.
func CheckData(b []byte) error {
	if err := checkJSON(b, MaxDepth); err != nil {
		return fmt.Errorf("data %w", err)
	}
	return nil
}

// unquote is the text of a JSON string that has been scanned.
func unquote(b []byte) (string, error) {
	switch string(b) { // the keys of all events, which need no copy
	case `"event"`:
		return "event", nil
	case `"data"`:
		return "data", nil
	case `"time"`:
		return "time", nil
	case `"client"`:
		return "client", nil
	}
	if bytes.IndexByte(b, '\\') >= 0 {
		if err := checkSurrogates(b); err != nil {
			return "", err
		}
		var s string
		err := json.Unmarshal(b, &s)
		return s, err
	}
	return string(b[1 : len(b)-1]), nil
}

// stringOf is the text of a JSON string, or an error that says what stands there.
func stringOf(key string, b []byte) (string, error) {
	if b[0] != '"' {
		return "", fmt.Errorf("%s is %s, not a string", key, typeOf(b[0]))
	}
	return unquote(b)
}

// typeOf says in words what a JSON value is, by its first byte.
func typeOf(c byte) string {
	switch c {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}

// appendString appends s as a JSON string that is valid UTF-8 whatever s is. Names
// and ids, nearly all there is to write, need no escaping at all.
func appendString(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			b, _ := json.Marshal(s) // a string cannot fail
			return append(dst, b...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}
