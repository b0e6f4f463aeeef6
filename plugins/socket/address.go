package socket

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
)

// pathMost is the longest path of a Unix socket: sun_path has 108 bytes, and a zero ends it (unix(7)).
const pathMost = 107

// address is where a socket is.
type address struct {
	network network
	name    string // a clean path, host:port, or CID:PORT
}

func (a address) String() string { return string(a.network) + ":" + a.name }

// network is a kind of socket.
type network string

const (
	unixStream network = "unix"
	unixPacket network = "unix-seqpacket"
	unixGram   network = "unix-dgram"
	tcp        network = "tcp"
	secure     network = "tls"
	vsock      network = "vsock"
)

// unix says whether it has a path.
func (n network) unix() bool { return n == unixStream || n == unixPacket || n == unixGram }

// packets says whether what is written together is read together, or not at all.
func (n network) packets() bool { return n == unixPacket || n == unixGram }

// spliced says whether the kernel can move bytes from a pipe to it and count them.
func (n network) spliced() bool { return n == unixStream || n == tcp || n == vsock }

// inGo is what package net calls it; vsock it does not know.
func (n network) inGo() string {
	switch n {
	case unixPacket:
		return "unixpacket"
	case unixGram:
		return "unixgram"
	case secure:
		return "tcp"
	}
	return string(n)
}

// addressForms are the ways to write an address.
const addressForms = "unix:PATH, unix-seqpacket:PATH, unix-dgram:PATH, tcp:HOST:PORT, tls:HOST:PORT or vsock:CID:PORT"

func parseAddress(text string) (address, error) {
	kind, name, _ := strings.Cut(text, ":")
	bad := func(format string, args ...any) (address, error) {
		return address{}, fmt.Errorf("%s: %s", text, fmt.Sprintf(format, args...))
	}
	switch n := network(kind); n {
	case unixStream, unixPacket, unixGram:
		switch {
		case !filepath.IsAbs(name):
			return bad("the path must be absolute, as in %s:/run/x.sock", n)
		case strings.HasSuffix(name, "/"):
			return bad("it names a directory; name a socket in it")
		case strings.Contains(name, "\x00"):
			return bad("a path cannot hold a zero byte")
		}
		name = filepath.Clean(name)
		if len(name) > pathMost {
			return bad("the path has %d bytes, and a Unix socket's can have %d; use a shorter directory", len(name), pathMost)
		}
		return address{n, name}, nil
	case tcp, secure:
		host, port, err := net.SplitHostPort(name)
		if err != nil || host == "" || port == "" {
			return bad("want %s:HOST:PORT, as in %[1]s:127.0.0.1:9000 or %[1]s:[::1]:9000", n)
		}
		if k, err := strconv.Atoi(port); err == nil && (k < 1 || k > 65535) {
			return bad("a port is between 1 and 65535")
		}
		return address{n, name}, nil
	case vsock:
		if _, _, err := vsockName(name); err != nil {
			return bad("%v", err)
		}
		return address{n, name}, nil
	}
	return bad("want %s", addressForms)
}

// vsockName parses CID:PORT.
func vsockName(name string) (cid, port uint32, err error) {
	a, b, _ := strings.Cut(name, ":")
	c, cidErr := strconv.ParseUint(a, 10, 32)
	p, portErr := strconv.ParseUint(b, 10, 32)
	if cidErr != nil || portErr != nil {
		return 0, 0, fmt.Errorf("want vsock:CID:PORT in numbers, as in vsock:2:9000; 2 is the host, and 1 this machine itself")
	}
	return uint32(c), uint32(p), nil
}
