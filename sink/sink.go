// Package sink is the SDK for sink plugins of muxd.
//
// A sink plugin is an executable that calls [Serve] with a [Plugin]. muxd starts it when a sink spec names
// it for the first time, hands it the far ends of children's streams, and restarts it when it dies. The author
// fills in Plugin and implements [Sink]: the SDK reads the streams, in chunks, batches small writes into
// larger chunks, keeps counters, and tells muxd when a stream has ended and when all of it is put out.
// muxctl plugin new writes such a plugin to begin with, and muxctl plugin check holds one to what it promises.
//
// # What a sink takes
//
//   - Chunks: Sink.Write puts out c.Data. What is in hand when the process is killed comes again to the next one
//     ([Chunk.Again]), with what Write had recorded by then ([Chunk.Intend]).
//   - Lines: Sink.Write ranges over [Chunk.Lines].
//   - Bytes that it does not look at: with [Opening.Unseen] the kernel moves them ([Chunk.Move]).
//   - The far ends themselves: Plugin.OpenRaw makes a [RawSink], which reads them as it likes.
//   - Nothing: Plugin.OpenDirect makes the child's end itself, a file or a connection.
//   - A console: Plugin.OpenConsole makes a terminal, and [ConsoleSink] serves its viewers.
//
// # What is called when
//
// Plugin.Check comes before a child is spawned, and changes nothing. Then Plugin.Open makes a sink for each child; an error of it
// is the error of the spawn. Write is called with one chunk of a stream after the other, by a goroutine that no other stream
// waits for: while it blocks the stream waits in its pipe, and nothing of it in memory. At the end of a stream it is called
// with [Chunk.Last]. When all streams of the opening have ended, or the process ends, comes Sink.Close. Openings are independent of
// each other: whatever is called for one may be called at the same time for another.
//
// When the process dies another one gets the openings that live, by Plugin.Open with [Opening.Again]: what must outlive it is in the
// chunks' states ([Chunk.SetState]), in the opening's memory ([Opening.Memory]), or parked ([Opening.Park]).
//
// # What a sink need not do
//
// Draining, deadlines, the hand-over of a stream to another sink, to another process of the plugin, or to another muxd, come with the SDK:
// each happens between two chunks. A plugin is asked now and then whether it lives; the SDK answers, also while sinks block. What a
// plugin prints to os.Stdout and os.Stderr is in muxd's log. What it waits for it tells with [Opening.Trouble], and what it had to
// drop with [Opening.Dropped]; numbers of its own it declares as [Plugin.Metrics] and keeps with [Opening.Count]: muxctl inspect shows all of them.
package sink

import (
	"context"
	"os"
	"time"

	"github.com/muxd/muxd/internal/spec"
)

// Stream is one of a child's streams.
type Stream int

const (
	Stdin   Stream = 1
	Stdout  Stream = 2
	Stderr  Stream = 3
	Console Stream = 4 // one terminal that is all three
)

var streamNames = map[Stream]string{Stdin: "stdin", Stdout: "stdout", Stderr: "stderr", Console: "console"}

func (s Stream) String() string { return streamNames[s] }

// Wiring says what the child has as its end of a stream, and who makes it.
type Wiring int

const (
	// Pipe is the usual one: the core makes a pipe for each stream, and the SDK reads its far end.
	Pipe Wiring = 1
	// PTY is a terminal pair that the plugin makes: only consoles have it.
	PTY Wiring = 2
	// Direct gives the child the file or connected socket itself. The plugin makes it and keeps nothing.
	Direct Wiring = 3
	// ConsoleSocket is a terminal that an OCI runtime makes: its master comes to the plugin. Only consoles have it.
	ConsoleSocket Wiring = 4
)

// Option declares one option of a sink, or its argument. Parsing, checking, help and completion follow from it.
type Option = spec.Option

// The types that an option can have, with what Values returns for them.
const (
	String   = spec.String   // string
	Int      = spec.Int      // int64
	Bool     = spec.Bool     // bool
	Duration = spec.Duration // time.Duration
	Size     = spec.Size     // int64, bytes
	Enum     = spec.Enum     // string, one of Option.Values
	Path     = spec.Path     // string, absolute
)

// Plugin is what an executable serves. Name and Carries are required, and one of Open, OpenRaw, OpenDirect and OpenConsole, or OpenDirect
// and one of the first two where Check says which.
type Plugin struct {
	Name    string // what a sink spec begins with
	Version string
	Help    string // one sentence
	Carries []Stream
	ByName  []Stream // of Carries, those that a spec for all streams does not mean, as a file that is read does not that which is written
	Arg     *Option  // what may stand behind "NAME:" in a spec; nil: nothing
	Options []Option
	Metrics []Metric // numbers that its sinks keep: see Opening.Count

	// Check judges a spec whose options are well-formed one by one, before anything is spawned; nil accepts all, and
	// means Direct where there is no Open but OpenDirect, and else Pipe. It must not change anything outside, and should not block.
	Check func(r *Request) (Wiring, error)

	// Open makes a sink for the streams of r. Everything that can fail for a reason of the user's should fail here. It
	// may block as long as ctx lasts.
	Open func(ctx context.Context, o *Opening) (Sink, error)

	// OpenRaw is called in place of Open, for a sink that reads the far ends itself. What the SDK does for a Sink, that nothing is lost
	// where the process is killed, such a sink does itself, or is not Exact: only the far ends come again by themselves.
	OpenRaw func(ctx context.Context, o *Opening) (RawSink, error)

	// Recover is told, before the first Open, what an earlier process of this plugin was killed over: the chunks for which
	// it had recorded an intent, and the memories of openings. Each comes Again when its opening does; a sink whose streams share something may want to
	// finish them before it puts out anything else there. nil: it does not matter.
	Recover func(chunks []Pending)

	// OpenDirect is called instead of Open where Check answered Direct. It returns what the child shall have, one
	// for each of r.Streams in their order, and relinquishes it, also with an error.
	OpenDirect func(ctx context.Context, r *Request) ([]*os.File, error)

	// OpenConsole makes a console. It must call o.Terminal; of one that comes o.Again, or is o.Given, o.Master gives the
	// terminal.
	OpenConsole func(ctx context.Context, o *Opening) (ConsoleSink, error)

	// Past makes a console again that has ended, from what its Remains were, of this process, another one, or an earlier version: it has no
	// terminal and gets no output, shows what it has to viewers, and ends them. It must not change anything outside. nil: consoles leave nothing.
	Past func(remains []byte) (ConsoleSink, error)

	// Copies is for the plugin that stands between a stream and several sinks, its branches: the SDK copies the stream into
	// their pipes, each with its policy. muxd uses the plugin called fanout for that.
	Copies bool

	// Logs reads back what sinks opened with a request equal to q.Request have kept, in the order in which it was
	// written, and calls emit for each record. It returns at the end of the log, or with q.Follow when ctx is done;
	// ctx is also done when nobody reads any more. nil: the sink keeps nothing.
	Logs func(ctx context.Context, q *LogQuery, emit func(Record) error) error
}

// Child is the process that the streams belong to.
type Child struct {
	ID      string
	Name    string
	Run     int    // counts the runs of a restarted child, from 1
	Command string // the program's name
}

// Request is a spec and the streams that it is asked to carry.
type Request struct {
	Child   Child
	Arg     string
	Options Values
	Streams []Stream // of those that the plugin carries; never empty
	// Location may be set by Check and Open: where the bytes go, for people (a path, an address).
	Location string
	// Exact may be set by Check, and says that with this spec nothing is lost or doubled where the process is killed and another
	// goes on: the SDK sees to the stream, and the sink puts out a chunk that comes Again as far as it is not out yet.
	Exact bool
	// Drops may be set by Check, and says that the sink drops output that nobody takes in time, and counts it
	// (Opening.Dropped), in place of letting the child wait.
	Drops bool
}

// Values are the options of a spec, parsed, with defaults filled in. They are shared with other requests, and not to be changed.
type Values map[string]any

// String returns the option of that name; "" where it has neither value nor default.
func (v Values) String(name string) string { s, _ := v[name].(string); return s }

// Int returns an Int or Size option; 0 where it has neither value nor default.
func (v Values) Int(name string) int64 { n, _ := v[name].(int64); return n }

// Bool returns a Bool option; false where it has neither value nor default.
func (v Values) Bool(name string) bool { b, _ := v[name].(bool); return b }

// Duration returns a Duration option; 0 where it has neither value nor default.
func (v Values) Duration(name string) time.Duration { d, _ := v[name].(time.Duration); return d }

// Has says whether the option was given or has a default.
func (v Values) Has(name string) bool { _, ok := v[name]; return ok }

// Sink puts out the streams of one opening. Write is called by one goroutine at a time for each stream; chunks
// of different streams of one opening may be written at the same time.
type Sink interface {
	// Write puts out one chunk of an output stream, and returns when the bytes are where they belong, or when they
	// are in c's state: once it has returned nil the chunk never comes again. It may block: the stream then waits,
	// under back-pressure, and no other stream does. After the last chunk of a stream it is called once more
	// with c.Last set and no data: then it returns when everything of this stream is where it belongs. An error
	// ends the stream for good (failed); for what can be mended outside, block, try again, and say so with
	// Opening.Trouble. ctx is done when muxd gives the stream up.
	Write(ctx context.Context, c *Chunk) error

	// Close is called once, when no other call is being made and none will be. With Stdin among the streams it is
	// also the sink's duty to have ended by then whatever writes to Opening.Input.
	Close() error
}

// Rotator is a Sink that keeps a log, and can begin a new file.
type Rotator interface {
	Sink

	// Rotate puts what comes from now on into a new file. It may be called at the same time as Write.
	Rotate(ctx context.Context) error
}

// ConsoleSink is a sink for a console. All methods may be called at the same time as Write.
type ConsoleSink interface {
	Sink

	// Attach serves a viewer until it leaves, the console ends, or ctx is done. It blocks for as long.
	Attach(ctx context.Context, v *Viewer) error

	// Resize sets the window size.
	Resize(rows, cols int) error

	// Size is the window size.
	Size() (rows, cols int)

	// Screen is what the console shows. errors.ErrUnsupported: it does not know.
	Screen() (*Screen, error)

	// Mark notes a marker in the console's recording. An error where it has none.
	Mark(ctx context.Context, label string) error

	// Remains is called when the stream has ended and the last Write has returned: what Plugin.Past needs to show the console later, at
	// most RemainsMost bytes; what is longer is as good as nothing. nil: it goes with its child.
	Remains() []byte
}

// RemainsMost is how many bytes a console may leave behind.
const RemainsMost = 2 << 20

// Chunk is a piece of an output stream. It is valid until Write returns.
type Chunk struct {
	Stream Stream
	Offset uint64    // in the stream, of the first byte of Data
	Data   []byte    // valid until Write returns; nil where the opening is Unseen
	Time   time.Time // when it was read; the same if the chunk comes again
	Last   bool      // the stream has ended before this chunk, which has no data
	// Again says that an earlier process of this plugin was killed while it had this chunk, so that some or all
	// of it may have been written; Intent tells what that process had recorded.
	Again bool
	// Missed is how many bytes of the stream are missing between the chunk before this one and this one: the sink is one of several, and
	// did not keep up (branch=). A sink whose output has a place for it says so there.
	Missed uint64

	slot   slot
	unseen mover // has the bytes of a chunk without Data
}

// mover is a chunk that is not looked at.
type mover interface {
	Left() int
	Move(dst, n int) (int, error)
}

// Left is how much of a chunk of an opening that is Unseen has not been moved; 0 for other chunks.
func (c *Chunk) Left() int {
	if c.unseen == nil {
		return 0
	}
	return c.unseen.Left()
}

// Move moves the next bytes of a chunk of an opening that is Unseen, at most n of them, to fd, which is a pipe or a
// stream socket, and returns how many it took. The kernel moves them and counts them in one step: a successor of a
// process that was killed gets the chunk Again with the rest only. It does not block where fd has O_NONBLOCK, and
// returns EAGAIN where fd takes nothing now.
func (c *Chunk) Move(fd uintptr, n int) (int, error) { return c.unseen.Move(int(fd), n) }

// Pending is a chunk that an earlier process of the plugin was killed over; or an opening that it had, with its memory.
type Pending struct {
	Opening string // Opening.ID
	Stream  Stream // 0 where Memory is not nil
	Intent  []byte
	Memory  []byte // what Opening.Memory will return; to be read, and only until Recover returns
}

// IntentMost and StateMost bound what Intend and SetState take, in bytes.
const (
	IntentMost = 1 << 10
	StateMost  = 24 << 10
)

// slot is the memory of a stream that outlives the process.
type slot interface {
	intent() []byte
	setIntent([]byte)
	state() []byte
	setState([]byte)
}

// Intent is what Intend recorded for this chunk before the process was killed; nil where Again is false.
func (c *Chunk) Intent() []byte {
	if !c.Again {
		return nil
	}
	return c.slot.intent()
}

// Intend records what is going to be written, before it is written, so that a successor can tell from the
// outside world how far it came. At most IntentMost bytes; it panics with more.
func (c *Chunk) Intend(b []byte) {
	if len(b) > IntentMost {
		panic("sink: intent is longer than IntentMost")
	}
	c.slot.setIntent(b)
}

// State is what SetState recorded with the stream's last chunk that was committed; it survives the process. nil at the
// stream's beginning. It is valid until Write returns.
func (c *Chunk) State() []byte { return c.slot.state() }

// SetState records what the sink wants to know when the next chunk comes, such as the beginning of a line whose end
// has not been seen. It takes effect together with the chunk, when Write returns nil. At most StateMost bytes; it
// panics with more.
func (c *Chunk) SetState(b []byte) {
	if len(b) > StateMost {
		panic("sink: state is longer than StateMost")
	}
	c.slot.setState(b)
}

// LogQuery asks for what a sink has kept.
type LogQuery struct {
	Request
	Follow bool
	Tail   int       // only the last so many lines; negative: all
	Since  time.Time // zero: from the beginning
	Until  time.Time // zero: to the end
	Cursor string    // of a Record: what came behind it; empty: see Tail
}

// Record is one line of a log.
type Record struct {
	Time    time.Time // zero where the log does not say
	Stream  Stream    // zero where the log does not say
	Text    []byte    // without the newline
	Partial bool      // the line goes on in the next record
	// Cursor, given back as LogQuery.Cursor, goes on behind this record, without a gap and without a repetition. Its form is
	// the sink's own; empty: it cannot go on there.
	Cursor string
}
