package file

import (
	"encoding/binary"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/muxd/muxd/sink"
)

// ledger is all that changes in a queue from step to step. It stands twice in memory that outlives the process, with a word
// that says which of the two counts: so every step is one atomic store, and a process killed between any two of
// them leaves what the last one made.
type ledger struct {
	origin uint64 // where position 0 of the ring is: ring[(at-origin) % len(ring)]
	tail   uint64 // where the oldest entry begins
	head   uint64 // where the next entry is put
	flight flight
	stream [2]progress // stdout, stderr
}

// flight is what has been taken from the ring and is being written. Its text is made of the entries in an area of its own, and of
// what is to be told of gaps, and comes out the same whenever it is made.
type flight struct {
	busy     uint64    // there is one
	from     uint64    // the ring's tail before it was taken
	size     uint64    // of the entries, with their headers
	nanos    int64     // the time that counts for it
	before   [2]uint64 // bytes that are missing in front of it, by stream
	after    [2]uint64 // and behind it
	open     [2]uint64 // the stream's last record in front of it said that its line goes on
	intended uint64    // the intent counts
	intent   [intentSize]byte
}

// progress is how far one stream has come.
type progress struct {
	chunk   uint64 // offset of the chunk that is being appended, plus 1
	records uint64 // of it that are in the queue, or were dropped
	dropped uint64 // bytes, in all
	gap     uint64 // bytes that were dropped and of which nothing is told yet
	open    uint64 // as in flight, for the next one
	ended   uint64 // its last record is in the queue
}

// Sizes in a queue's memory. The ring is behind, or in a file.
const (
	ledgerSize = 4096
	flightSize = pieceSize // at least a record, with its header
	pageSize   = ledgerSize + flightSize
)

// books are a ledger's two copies.
type books struct {
	which  *uint64
	copies *[2]ledger
}

// booksIn finds the books in a page, which is zero at first.
func booksIn(page []byte) books {
	return books{(*uint64)(unsafe.Pointer(&page[0])), (*[2]ledger)(unsafe.Pointer(&page[64]))}
}

// label writes into a page how many pages an opening's memory begins with, and the first of the streams that the queue carries:
// what is needed to read it before the opening comes.
func label(page []byte, pages int, st sink.Stream) {
	binary.LittleEndian.PutUint64(page[8:], uint64(pages))
	binary.LittleEndian.PutUint64(page[16:], uint64(st))
}

// flights lists the flights in an opening's memory of which an intent is recorded.
func flights(opening string, mem []byte, each func(c claim, i intent)) {
	for at, pages := 0, 1; at < pages && (at+1)*pageSize <= len(mem); at++ {
		page := mem[at*pageSize : (at+1)*pageSize]
		pages = int(binary.LittleEndian.Uint64(page[8:]))
		f := booksIn(page).read().flight
		if i, ok := decodeIntent(f.intent[:]); ok && f.busy != 0 && f.intended != 0 {
			each(claim{opening, sink.Stream(binary.LittleEndian.Uint64(page[16:]))}, i)
		}
	}
}

func (b books) read() ledger { return b.copies[atomic.LoadUint64(b.which)&1] }

// write makes l what counts.
func (b books) write(l *ledger) {
	next := 1 - atomic.LoadUint64(b.which)&1
	b.copies[next] = *l
	atomic.StoreUint64(b.which, next)
}

// entry is one record in the ring: a header, and behind it the record as it stands in the file. One that tells of a gap has no
// text yet.
type entry struct {
	length  int
	stream  int
	partial bool
	gap     bool
	size    uint64 // bytes of the stream that it is
	nanos   int64  // when they were read
}

const entryHeader = 24

const (
	entryStream  = 1 << iota // 0: stdout, 1: stderr
	entryPartial             // its line goes on
	entryGap
)

func (e entry) encode(b *[entryHeader]byte) {
	flags := uint32(e.stream)
	if e.partial {
		flags |= entryPartial
	}
	if e.gap {
		flags |= entryGap
	}
	binary.LittleEndian.PutUint32(b[0:], uint32(e.length))
	binary.LittleEndian.PutUint32(b[4:], flags)
	binary.LittleEndian.PutUint64(b[8:], e.size)
	binary.LittleEndian.PutUint64(b[16:], uint64(e.nanos))
}

func decodeEntry(b *[entryHeader]byte) entry {
	flags := binary.LittleEndian.Uint32(b[4:])
	return entry{
		length: int(binary.LittleEndian.Uint32(b[0:])), stream: int(flags & entryStream), partial: flags&entryPartial != 0,
		gap: flags&entryGap != 0, size: binary.LittleEndian.Uint64(b[8:]), nanos: int64(binary.LittleEndian.Uint64(b[16:])),
	}
}

// outputs are the streams by their number in a queue.
var outputs = [2]sink.Stream{sink.Stdout, sink.Stderr}

// numberOf is a stream's number in a queue.
func numberOf(st sink.Stream) int {
	if st == sink.Stderr {
		return 1
	}
	return 0
}

func timeOf(nanos int64) time.Time { return time.Unix(0, nanos) }
