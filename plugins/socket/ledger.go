package socket

import (
	"sync/atomic"
	"unsafe"
)

// ledger is all that changes in a queue from step to step. It stands twice in memory that outlives the process, with a word
// that says which of the two counts: so every step is one atomic store, and a process killed between any two of
// them leaves what the last one made.
type ledger struct {
	used   uint64 // the queue has an owner
	origin uint64 // where position 0 of the ring is: ring[(at-origin) % len(ring)]
	head   uint64 // of the entries: where the next one is put
	tail   uint64 // of the entries: where the oldest one begins
	flight flight
	// By stream: stdout, stderr.
	streams [2]progress
}

// flight is what has been taken from the ring and is being sent: records, one after the other, in an area of their own.
type flight struct {
	phase uint64 // idle, filling or filled
	from  uint64 // the ring's tail before it was taken
	size  uint64 // bytes
	count uint64 // records
	base  uint64 // what lies below is with the peer's kernel
	upto  uint64 // filled: what lies between base and this was put into the pipe
}

// The phases of a flight.
//
//	idle → (taken from the ring) → filling → (put into the pipe) → filled → (the pipe is empty) → filling or idle
//	filled → (the connection broke) → filling, from the record that was torn
const (
	idle    = 0
	filling = 1 // what is in the pipe does not count
	filled  = 2 // what has left the pipe is sent
)

// progress is how far one stream has come.
type progress struct {
	chunk   uint64 // offset of the chunk that is being appended, plus 1
	records uint64 // of it that are in the queue, or were dropped
	dropped uint64 // bytes, in all
	gap     uint64 // bytes that were dropped and have not been stamped
	given   uint64 // the stream has ended, and what is in the ring of it is given up
}

// Layout of a queue's memory. The ring is behind it, or in a file.
const (
	ledgerSize  = 4096
	endsMost    = 1024 // records in a flight
	endsAt      = ledgerSize
	flightAt    = endsAt + 4*endsMost
	flightMost  = 64 << 10
	queueHeader = flightAt + flightMost
)

// books are a ledger's two copies.
type books struct {
	which  *uint64
	copies *[2]ledger
}

// booksIn finds the books at the beginning of mem, which is zero at first.
func booksIn(mem []byte) books {
	return books{(*uint64)(unsafe.Pointer(&mem[0])), (*[2]ledger)(unsafe.Pointer(&mem[64]))}
}

func (b books) read() ledger { return b.copies[atomic.LoadUint64(b.which)] }

// write makes l what counts.
func (b books) write(l ledger) {
	next := 1 - atomic.LoadUint64(b.which)
	b.copies[next] = l
	atomic.StoreUint64(b.which, next)
}
