package stage

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// A connected stream socket is read as a pipe is.
func TestEngineReadsSockets(t *testing.T) {
	e := newEngine(t)
	want := make([]byte, 3<<20)
	for i := range want {
		want[i] = byte(rand.Uint32())
	}
	for name, pair := range map[string]func(*testing.T) (*fd.FD, io.WriteCloser){"unix": unixPair, "tcp": tcpPair} {
		t.Run(name, func(t *testing.T) {
			r, w := pair(t)
			c := newCollector(t)
			s, err := e.Add(r, newKey(), c)
			if err != nil {
				t.Fatal(err)
			}
			for b := want; len(b) > 0; {
				n := min(len(b), 1+rand.IntN(100<<10))
				if _, err := w.Write(b[:n]); err != nil {
					t.Fatal(err)
				}
				b = b[n:]
			}
			w.Close()
			<-c.done
			if c.err != nil || !c.last || c.eof != uint64(len(want)) || !bytes.Equal(c.buf.Bytes(), want) {
				t.Errorf("%d bytes of %d, last %v, eof %d, error %v", c.buf.Len(), len(want), c.last, c.eof, c.err)
			}
			s.Forget()
		})
	}
}

func unixPair(t *testing.T) (*fd.FD, io.WriteCloser) {
	r, w, err := fd.Socketpair(unix.SOCK_STREAM)
	if err != nil {
		t.Fatal(err)
	}
	return r, w.File("writer")
}

func tcpPair(t *testing.T) (*fd.FD, io.WriteCloser) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	r, err := fd.FromFile(f)
	if err != nil {
		t.Fatal(err)
	}
	return r, w
}
