package socket

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/muxd/muxd/sink"
)

// pathMost is the longest path of a Unix socket: sun_path has 108 bytes, and a zero ends it (unix(7)).
const pathMost = 107

// address is where a socket is.
type address struct {
	network string // "unix" or "tcp"
	name    string // a clean path, or host:port
}

func (a address) String() string { return a.network + ":" + a.name }

// settings is a request, understood.
type settings struct {
	address
	listen  bool
	perm    os.FileMode
	outputs int // how many of the streams are the child's output
}

func (s settings) location() string {
	if s.listen {
		return "listen=" + s.address.String()
	}
	return s.address.String()
}

// parseSettings changes nothing outside; it is what Check does.
func parseSettings(r *sink.Request) (s settings, err error) {
	listen := r.Options.String("listen")
	switch {
	case listen != "" && r.Arg != "":
		return s, fmt.Errorf("both an address to connect to (%s) and listen=%s: give one of them", r.Arg, listen)
	case listen == "" && r.Arg == "":
		return s, fmt.Errorf("no address: give unix:PATH or tcp:HOST:PORT to connect to, or listen=unix:PATH")
	case listen != "":
		s.listen = true
		if s.address, err = parseAddress(listen); err != nil {
			return s, fmt.Errorf("listen=%w", err)
		}
		if s.network != "unix" {
			return s, fmt.Errorf("listen=%s: only a Unix socket can be listened on, as in listen=unix:/run/x.sock", listen)
		}
	default:
		if s.address, err = parseAddress(r.Arg); err != nil {
			return s, err
		}
	}
	perm := r.Options.String("perm")
	bits, err := strconv.ParseUint(perm, 8, 32)
	if err != nil || bits > 0o777 {
		return s, fmt.Errorf("perm=%s: want octal permissions between 0 and 0777, as 0600", perm)
	}
	s.perm = os.FileMode(bits)
	for _, st := range r.Streams {
		if st != sink.Stdin {
			s.outputs++
		}
	}
	return s, nil
}

func parseAddress(text string) (address, error) {
	network, name, _ := strings.Cut(text, ":")
	bad := func(format string, args ...any) (address, error) {
		return address{}, fmt.Errorf("%s: %s", text, fmt.Sprintf(format, args...))
	}
	switch network {
	case "unix":
		switch {
		case !filepath.IsAbs(name):
			return bad("the path must be absolute, as in unix:/run/x.sock")
		case strings.HasSuffix(name, "/"):
			return bad("it names a directory; name a socket in it")
		case strings.Contains(name, "\x00"):
			return bad("a path cannot hold a zero byte")
		}
		name = filepath.Clean(name)
		if len(name) > pathMost {
			return bad("the path has %d bytes, and a Unix socket's can have %d; use a shorter directory", len(name), pathMost)
		}
		return address{network, name}, nil
	case "tcp":
		host, port, err := net.SplitHostPort(name)
		if err != nil || host == "" || port == "" {
			return bad("want tcp:HOST:PORT, as in tcp:127.0.0.1:9000 or tcp:[::1]:9000")
		}
		if n, err := strconv.Atoi(port); err == nil && (n < 1 || n > 65535) {
			return bad("a port is between 1 and 65535")
		}
		return address{network, name}, nil
	}
	return bad("want unix:PATH or tcp:HOST:PORT")
}
