package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/sink"
)

// files are the outputs that this process writes. There is one for each file, however many streams and paths
// lead to it.
type files struct {
	mu      sync.Mutex
	open    map[identity]*output
	sinks   map[*fileSink]func(error) // those that write, and what they tell trouble to
	buffers sync.Pool                 // of *buffers; an idle stream has none
	pending pending

	retryFirst, retryMost time.Duration // back-off while a file cannot be written
	lookAgain             time.Duration // how seldom a stream looks whether its path still leads to its file

	fsync func(*os.File) error
	step  func(string) // called between any two steps of a rotation, for tests that end the process there

	jobs        sync.WaitGroup // tidying, which one goroutine does; the rest is guarded by mu
	tidying     bool
	untidy      map[series]settings
	untidyOrder []series
}

// buffers is memory for a chunk that is put out.
type buffers struct {
	out  []byte
	join []byte
	work writing
}

func newFiles() *files {
	return &files{
		open:  map[identity]*output{},
		sinks: map[*fileSink]func(error){},
		buffers: sync.Pool{New: func() any {
			return &buffers{out: make([]byte, 0, pieceSize+recordMost), join: make([]byte, 0, sink.StateMost)}
		}},
		retryFirst: 100 * time.Millisecond,
		retryMost:  5 * time.Second,
		lookAgain:  time.Second,
		fsync:      (*os.File).Sync,
		step:       func(string) {},
		untidy:     map[series]settings{},
	}
}

// output is one open file. It stays the same file for as long as it is held: a path that has come to lead
// elsewhere is another output.
type output struct {
	files   *files
	file    *os.File
	id      identity
	birth   uint64 // when it was made, Unix nanoseconds, by which it is told from another of the same number; 0: not known
	regular bool
	holders int           // guarded by files.mu
	turn    chan struct{} // holds a token while nobody writes
	retired atomic.Bool   // it was rotated: nobody may write to it; set under turn
	sync    syncer

	raw      syscall.RawConn
	look     func(n uintptr) // sets nameless
	nameless atomic.Bool

	// Guarded by turn.
	begun  bool      // somebody of this process has written
	torn   bool      // it was found torn
	wrote  time.Time // when it was written last; zero while it is empty
	stuck  time.Time // when it could not be rotated
	placed bool      // after is known
	after  time.Time // when the file before it in its series was closed
}

// acquire opens path and returns its output, which the caller must release. It does not wait for a turn.
func (fs *files) acquire(path string, s settings) (*output, error) {
	for {
		o, err := fs.acquireOnce(path, s)
		if err != nil {
			return nil, err
		}
		// It may have been rotated between open(2) and now by somebody who has left it already.
		info, err := os.Stat(path)
		if err == nil && identityOf(info) == o.id {
			return o, nil
		}
		if releaseErr := o.release(); releaseErr != nil {
			return nil, releaseErr
		}
		if err != nil && !missing(err) {
			return nil, explain(err, path)
		}
	}
}

func (fs *files) acquireOnce(path string, s settings) (*output, error) {
	f, err := fs.openAppend(path, s)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	id := identityOf(info)

	fs.mu.Lock()
	defer fs.mu.Unlock()
	if o := fs.open[id]; o != nil {
		f.Close()
		o.holders++
		return o, nil
	}
	o := &output{files: fs, file: f, id: id, regular: info.Mode().IsRegular(), holders: 1, turn: make(chan struct{}, 1)}
	if o.birth, err = birthOf(f); err == nil {
		o.raw, err = f.SyscallConn()
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	o.look = func(n uintptr) {
		var st unix.Stat_t
		o.nameless.Store(unix.Fstat(int(n), &st) == nil && st.Nlink == 0)
	}
	if info.Size() > 0 {
		o.wrote = info.ModTime()
	}
	o.turn <- struct{}{}
	fs.open[id] = o
	return o, nil
}

// acquireRenamed is acquire for a file that was renamed within dir. nil where it is not there.
func (fs *files) acquireRenamed(dir string, id identity, s settings) (*output, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || identityOf(info) != id {
			continue
		}
		o, err := fs.acquire(filepath.Join(dir, e.Name()), s)
		if err != nil {
			return nil, err
		}
		if o.id == id {
			return o, nil
		}
		if err := o.release(); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// release closes the file when the last holder is gone.
func (o *output) release() error {
	o.files.mu.Lock()
	defer o.files.mu.Unlock()
	if o.holders--; o.holders > 0 {
		return nil
	}
	delete(o.files.open, o.id)
	return errors.Join(o.stop(), o.file.Close())
}

// lock waits for the turn to write, or for ctx.
func (o *output) lock(ctx context.Context) error {
	select {
	case <-o.turn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (o *output) unlock() { o.turn <- struct{}{} }

// write appends b, and returns how much of it the kernel took. A FIFO whose reader is slow blocks it until ctx is
// done; a regular file is written without regard to ctx.
func (o *output) write(ctx context.Context, b []byte) (int, error) {
	if o.regular {
		return o.file.Write(b)
	}
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		o.file.SetWriteDeadline(time.Unix(1, 0))
		close(over)
	})
	n, err := o.file.Write(b)
	if !stop() {
		<-over
		o.file.SetWriteDeadline(time.Time{})
	}
	return n, err
}

// deleted says whether a regular file has no name any more: nobody finds what is appended to it. It is asked before each chunk, by
// several streams at once, and allocates nothing.
func (o *output) deleted() bool {
	if !o.regular {
		return false
	}
	o.raw.Control(o.look)
	return o.nameless.Load()
}

// end is the length of the file; 0 of what has none.
func (o *output) end() (int64, error) {
	if !o.regular {
		return 0, nil
	}
	return o.file.Seek(0, io.SeekEnd)
}

// reopen opens the same file for reading, whatever its name is now, and reopenFor for something else. It is returned, owned by the caller.
func (o *output) reopen() (*os.File, error) { return o.reopenFor(os.O_RDONLY) }

func (o *output) reopenFor(flags int) (*os.File, error) {
	raw, err := o.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	var f *os.File
	var openErr error
	err = raw.Control(func(n uintptr) { f, openErr = os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", n), flags, 0) })
	if err := errors.Join(err, openErr); err != nil {
		return nil, fmt.Errorf("open %s again: %w", o.file.Name(), err)
	}
	return f, nil
}
