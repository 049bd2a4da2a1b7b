package proto

import "encoding/binary"

// textHeader is the longest header of an unmasked frame.
const textHeader = 10

// EncodeEvent is AppendEvent as a whole WebSocket text message, ready to be written to
// any number of sockets. It allocates once.
func EncodeEvent(e Event) []byte {
	size := textHeader + len(e.Event) + len(e.Data) + len(e.Room) + len(e.EventID) + len(e.Position) + 128
	return text(AppendEvent(make([]byte, textHeader, size), e))
}

// EncodeFrame is AppendFrame as a whole WebSocket text message.
func EncodeFrame(event EventName, data any, id string) []byte {
	return text(AppendFrame(make([]byte, textHeader, 256), event, data, id))
}

// text puts the header of an unmasked text message of one frame (RFC 6455, section 5.2)
// before the payload that begins at textHeader, and cuts off what is left over.
func text(b []byte) []byte {
	const finText = 0x81
	n := len(b) - textHeader
	switch {
	case n < 126:
		b = b[textHeader-2:]
		b[1] = byte(n)
	case n < 1<<16:
		b = b[textHeader-4:]
		b[1] = 126
		binary.BigEndian.PutUint16(b[2:], uint16(n))
	default:
		b[1] = 127
		binary.BigEndian.PutUint64(b[2:], uint64(n))
	}
	b[0] = finText
	return b
}

// Payload is the JSON in a frame that EncodeEvent or EncodeFrame made.
func Payload(frame []byte) []byte {
	switch frame[1] {
	case 126:
		return frame[4:]
	case 127:
		return frame[10:]
	}
	return frame[2:]
}
