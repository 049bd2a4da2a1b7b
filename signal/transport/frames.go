package transport

import (
	"encoding/binary"
	"errors"
)

// Why a client's bytes are refused before the library sees them.
var (
	errTooBig    = errors.New("transport: message too big")
	errFraming   = errors.New("transport: bad framing")
	errFragments = errors.New("transport: too many fragments")
	errControls  = errors.New("transport: too many control frames")
)

// fragmentsMost is how many frames a message may come in: more is an attack, since each
// costs the library its full price (RELIABILITY 4.3, input 42).
const fragmentsMost = 64

// frames follows the framing of what a client sends (RFC 6455, section 5.2), to know
// whether a connection stands between two messages: only then may it wait without a
// goroutine, or be parked. It refuses by the header what the library would only notice
// when it has read it: a message that will be too big, a length that is not minimal, a
// message in too many fragments. Everything else the library judges.
type frames struct {
	left      int64    // payload bytes of the present frame that have not come
	size      int64    // payload bytes of the present message so far, as announced
	head      [14]byte // of the present frame
	have      uint8    // bytes in head
	fragments uint8    // of the present message
	controls  uint16   // control frames that have begun; whoever looks at it clears it
	open      bool     // the message goes on after the present frame
	closed    bool     // a Close frame has begun
	fresh     bool     // a message has begun; whoever looks at it clears it
}

// between says whether the next byte begins a message.
func (f *frames) between() bool { return f.left == 0 && f.have == 0 && !f.open }

// follow takes what has been read.
func (f *frames) follow(p []byte, most int64) error {
	for len(p) > 0 {
		if f.left > 0 {
			n := min(f.left, int64(len(p)))
			f.left -= n
			p = p[n:]
			continue
		}
		if f.between() {
			f.fresh = true
		}
		f.head[f.have] = p[0]
		f.have++
		p = p[1:]
		if int(f.have) == f.headSize() {
			f.have = 0
			if err := f.begin(most); err != nil {
				return err
			}
		}
	}
	return nil
}

// headSize is the length of the header, as far as it is known.
func (f *frames) headSize() int {
	if f.have < 2 {
		return 2
	}
	n := 2
	switch f.head[1] & 0x7f {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	if f.head[1]&0x80 != 0 {
		n += 4
	}
	return n
}

// begin judges a header.
func (f *frames) begin(most int64) error {
	fin, opcode := f.head[0]&0x80 != 0, f.head[0]&0x0f
	var length uint64
	switch n := f.head[1] & 0x7f; n {
	case 126:
		if length = uint64(binary.BigEndian.Uint16(f.head[2:])); length < 126 {
			return errFraming
		}
	case 127:
		if length = binary.BigEndian.Uint64(f.head[2:]); length < 1<<16 || length >= 1<<63 {
			return errFraming
		}
	default:
		length = uint64(n)
	}
	f.left = int64(length)
	if opcode >= 8 { // control: may stand between the frames of a message
		f.closed = f.closed || opcode == 8
		f.controls++
		return nil
	}
	if opcode != 0 {
		f.size, f.fragments = 0, 0
	}
	f.size += f.left
	f.open = !fin
	if f.size > most || f.left > most {
		return errTooBig
	}
	if f.fragments++; f.fragments > fragmentsMost {
		return errFragments
	}
	return nil
}
