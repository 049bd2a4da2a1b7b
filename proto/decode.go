package proto

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// Decode reads a JSON object into a struct in the one way that allows no second reading, as frames are read: keys are
// compared exactly with the tags, a key stands once, texts are valid UTF-8 without half a surrogate pair, and nothing
// is nested deeper than MaxDepth. encoding/json takes keys in any case and the last of two, so that a proxy or an
// application in front may have read something else. A json.RawMessage gets the very bytes.
func Decode(b []byte, into any) error {
	return decodeObject(b, reflect.ValueOf(into).Elem(), MaxDepth+1, false)
}

// DecodeKnown is Decode for an object that has no other keys.
func DecodeKnown(b []byte, into any) error {
	return decodeObject(b, reflect.ValueOf(into).Elem(), MaxDepth+1, true)
}

func decodeObject(b []byte, into reflect.Value, depth int, known bool) error {
	return eachField(b, depth, func(key string, value []byte) error {
		field, tagged := fieldOf(into, key)
		if !tagged {
			if known {
				return fmt.Errorf("has an unknown field %q", key)
			}
			return nil
		}
		err := decodeValue(value, field, depth-1, known)
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			wrong.Field = strings.TrimSuffix(key+"."+wrong.Field, ".")
		} else if err != nil {
			err = fmt.Errorf("%s %w", key, err)
		}
		return err
	})
}

// fieldOf is the field of a struct, or of one that is embedded in it, that has a key.
func fieldOf(s reflect.Value, key string) (reflect.Value, bool) {
	for i := range s.NumField() {
		f := s.Type().Field(i)
		if f.Anonymous && f.Type.Kind() == reflect.Struct {
			if found, ok := fieldOf(s.Field(i), key); ok {
				return found, true
			}
		} else if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name == key && name != "" && name != "-" && f.IsExported() {
			return s.Field(i), true
		}
	}
	return reflect.Value{}, false
}

var (
	rawMessage  = reflect.TypeFor[json.RawMessage]()
	unmarshaler = reflect.TypeFor[json.Unmarshaler]()
)

func decodeValue(b []byte, into reflect.Value, depth int, known bool) error {
	switch t := into.Type(); {
	case t == rawMessage:
		into.SetBytes(append([]byte(nil), b...))
		return nil
	case reflect.PointerTo(t).Implements(unmarshaler):
	case t.Kind() == reflect.Pointer && b[0] != 'n':
		into.Set(reflect.New(t.Elem()))
		return decodeValue(b, into.Elem(), depth, known)
	case t.Kind() == reflect.Struct && b[0] == '{':
		return decodeObject(b, into, depth, known)
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct && b[0] == '[':
		into.Set(reflect.MakeSlice(t, 0, 0))
		return eachItem(b, func(item []byte) error {
			one := reflect.New(t.Elem()).Elem()
			err := decodeValue(item, one, depth-1, known)
			into.Set(reflect.Append(into, one))
			return err
		})
	}
	if err := checkSurrogates(b); err != nil {
		return err
	}
	return json.Unmarshal(b, into.Addr().Interface())
}

var errSurrogate = errors.New("has half of a surrogate pair")

// checkSurrogates says whether a JSON value that has been scanned has an escape that is no character: readers
// make the same text of different ones of them.
func checkSurrogates(b []byte) error {
	high := false // the escape before this one was the first half of a pair
	for i := 0; i < len(b); i++ {
		if b[i] != '\\' {
			if high {
				return errSurrogate
			}
			continue
		}
		if i++; b[i] != 'u' {
			if high {
				return errSurrogate
			}
			continue
		}
		c := strings.ToLower(string(b[i+1 : i+3]))
		i += 4
		switch first, second := "d8" <= c && c <= "db", "dc" <= c && c <= "df"; {
		case second != high:
			return errSurrogate
		default:
			high = first
		}
	}
	if high {
		return errSurrogate
	}
	return nil
}
