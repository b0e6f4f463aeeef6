// Package viewer is the viewer protocol: what a client attached to a console and the console's plugin say to each
// other on a SOCK_SEQPACKET socket, one frame a packet. The first byte is the frame's type; numbers are big-endian.
// PROTOCOL.md describes it.
//
// There is one way to write each frame: a packet that is longer than its frame, or that has a bit set where
// nothing is meant, is malformed. So a stray byte is noticed by whoever reads it first, and not guessed at.
package viewer

import (
	"encoding/binary"
	"fmt"
)

// Type is the first byte of a frame. The high bit tells the direction.
type Type byte

// From the client.
const (
	Input      Type = 0x01 // u64 offset in this viewer's input, then bytes typed
	Resize     Type = 0x02 // u16 rows, u16 columns
	EndOfInput Type = 0x03 // the viewer's input has ended: the console gets its VEOF character where it reads lines
	Terminal   Type = 0x04 // with a descriptor, the viewer's terminal; the modes to put back, as AppendModes writes them
	Reclaim    Type = 0x05 // nothing more shall be written to the terminal
	Typed      Type = 0x06 // u64: input up to this offset was typed by the client itself
)

// From the console.
const (
	Output Type = 0x81 // u64 offset in the console's output, then bytes; without bytes it only tells the offset
	Ack    Type = 0x82 // u64: input up to this offset has been written to the terminal
	Replay Type = 0x83 // bytes that draw what came before; they are no part of the output's count
	Notice Type = 0x84 // text for the person at the viewer
	End    Type = 0x85 // the console has ended: u8 1 where a wait status follows, u32 wait status (0 where none does)
	Ready  Type = 0x86 // u64: all output up to this offset has been shown, which is all that there was when the viewer came
	Take   Type = 0x87 // the console takes the viewer's terminal; with a descriptor, the master on which the client may type itself
	Screen Type = 0x88 // u8 flags, then what brings the screen of a terminal that was handed over back to normal
)

// Flags of Screen.
const (
	Returned   = 1 << iota // the terminal is the client's again
	Unfinished             // the cursor stands behind something
)

// ModesSize is the length of what AppendModes appends.
const ModesSize = 4*4 + 1 + 19

// MaxData bounds the bytes in one frame.
const MaxData = 64 << 10

// MaxFrame is the size of the largest frame.
const MaxFrame = 1 + 8 + MaxData

// Frame is any frame; which fields count depends on its type.
type Frame struct {
	Type       Type
	Offset     uint64 // Input, Typed, Output, Ack, Ready
	Data       []byte // Input, Terminal, Output, Replay, Notice, Screen
	Flags      byte   // Screen
	Rows, Cols uint16 // Resize
	HasStatus  bool   // End
	Status     uint32 // End
}

// Append appends the frame's bytes to b. It panics where the data is longer than MaxData, which is the caller's
// mistake: no peer would take the frame.
func (f Frame) Append(b []byte) []byte {
	if len(f.Data) > MaxData {
		panic(fmt.Sprintf("viewer frame of type %#x: %d bytes of data, the most is %d", byte(f.Type), len(f.Data), MaxData))
	}
	b = append(b, byte(f.Type))
	switch f.Type {
	case Input, Output:
		b = binary.BigEndian.AppendUint64(b, f.Offset)
		b = append(b, f.Data...)
	case Typed, Ack, Ready:
		b = binary.BigEndian.AppendUint64(b, f.Offset)
	case Screen:
		b = append(append(b, f.Flags), f.Data...)
	case Resize:
		b = binary.BigEndian.AppendUint16(b, f.Rows)
		b = binary.BigEndian.AppendUint16(b, f.Cols)
	case Terminal, Replay, Notice:
		b = append(b, f.Data...)
	case End:
		if !f.HasStatus {
			return append(b, 0, 0, 0, 0, 0)
		}
		b = append(b, 1)
		b = binary.BigEndian.AppendUint32(b, f.Status)
	}
	return b
}

// Parse reads a frame. Data is b's own memory.
func Parse(b []byte) (Frame, error) {
	if len(b) == 0 {
		return Frame{}, fmt.Errorf("viewer frame: empty")
	}
	f := Frame{Type: Type(b[0])}
	head, data, known := layout(f.Type)
	rest := b[1:]
	switch {
	case !known:
		return Frame{}, fmt.Errorf("viewer frame: unknown type %#x", b[0])
	case len(rest) < head:
		return Frame{}, fmt.Errorf("viewer frame of type %#x: %d bytes, want at least %d", b[0], len(b), 1+head)
	case !data && len(rest) > head:
		return Frame{}, fmt.Errorf("viewer frame of type %#x: %d bytes, want %d", b[0], len(b), 1+head)
	case len(rest)-head > MaxData:
		return Frame{}, fmt.Errorf("viewer frame of type %#x: %d bytes of data, the most is %d", b[0], len(rest)-head, MaxData)
	}
	if data {
		f.Data = rest[head:]
	}
	switch f.Type {
	case Input, Typed, Output, Ack, Ready:
		f.Offset = binary.BigEndian.Uint64(rest)
	case Terminal:
		if len(f.Data) != ModesSize {
			return Frame{}, fmt.Errorf("viewer frame of type %#x: %d bytes, want %d", b[0], len(b), 1+ModesSize)
		}
	case Screen:
		if f.Flags = rest[0]; f.Flags&^(Returned|Unfinished) != 0 {
			return Frame{}, fmt.Errorf("viewer frame of type %#x: unknown flags %#x", b[0], f.Flags)
		}
	case Resize:
		f.Rows, f.Cols = binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[2:])
	case End:
		f.HasStatus, f.Status = rest[0] == 1, binary.BigEndian.Uint32(rest[1:])
		if rest[0] > 1 || !f.HasStatus && f.Status != 0 {
			return Frame{}, fmt.Errorf("viewer frame of type %#x: %x is no end", b[0], rest)
		}
	}
	return f, nil
}

// layout is how a frame goes on behind its type: the number of bytes before its data, and whether it has data.
func layout(t Type) (head int, data, known bool) {
	switch t {
	case Input, Output:
		return 8, true, true
	case Typed, Ack, Ready:
		return 8, false, true
	case Resize:
		return 4, false, true
	case Terminal, Replay, Notice:
		return 0, true, true
	case Screen:
		return 1, true, true
	case End:
		return 5, false, true
	case EndOfInput, Reclaim, Take:
		return 0, false, true
	}
	return 0, false, false
}
