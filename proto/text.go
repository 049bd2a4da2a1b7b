package proto

import "encoding/binary"

// textHeader is the longest header of an unmasked frame.
const textHeader = 10

// EncodeEvent is AppendEvent as a whole WebSocket text message, ready to be written to
// any number of sockets. It allocates once.
func EncodeEvent(e Event) []byte {
	size := textHeader + len(e.Event) + len(e.Data) + len(e.Room) + len(e.EventID) + 160
	return AppendEventFrame(make([]byte, 0, size), e)
}

// AppendEventFrame appends what EncodeEvent returns.
func AppendEventFrame(dst []byte, e Event) []byte {
	at := len(dst)
	return text(AppendEvent(append(dst, make([]byte, textHeader)...), e), at)
}

// EncodeFrame is AppendFrame as a whole WebSocket text message.
func EncodeFrame(event EventName, data any, id string) []byte {
	return text(AppendFrame(make([]byte, textHeader, 256), event, data, id), 0)
}

// text makes an unmasked text message of one frame (RFC 6455, section 5.2) of the payload
// that stands in b after the longest header, which begins at the place given. A shorter
// header moves the payload.
func text(b []byte, at int) []byte {
	const finText = 0x81
	payload := b[at+textHeader:]
	head := b[at:at:len(b)]
	switch n := len(payload); {
	case n < 126:
		head = append(head, finText, byte(n))
	case n < 1<<16:
		head = binary.BigEndian.AppendUint16(append(head, finText, 126), uint16(n))
	default:
		head = binary.BigEndian.AppendUint64(append(head, finText, 127), uint64(n))
	}
	return append(b[:at+len(head)], payload...)
}

// FrameLen is how many bytes the frame of ours has that b begins with, of any kind.
func FrameLen(b []byte) int {
	switch n := int(b[1]); n {
	case 126:
		return 4 + int(binary.BigEndian.Uint16(b[2:]))
	case 127:
		return 10 + int(binary.BigEndian.Uint64(b[2:]))
	default:
		return 2 + n
	}
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
