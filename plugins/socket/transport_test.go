package socket

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/sink"
)

// withFraming is what a spec with a framing makes of an address.
func withFraming(a address, framing string) settings {
	s := at(a)
	s.framing = framing
	return s
}

func opened(t *testing.T, s settings, p port, again bool) *dialled {
	t.Helper()
	d, err := openDialled(t.Context(), s, p, again)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestQueuedDialled is a dialled sink with a framing: what cannot be moved as it is goes through the queue.
func TestQueuedDialled(t *testing.T) {
	srv, a := newServer(t, "unix", temp(t))
	p, _ := testPort(t, nil, 1)
	d := opened(t, withFraming(a, "docker"), p, false)
	peer := srv.accept()
	put(t, d, "hello")
	peer.wants("\x01\x00\x00\x00\x00\x00\x00\x05hello")

	// The process is killed: another goes on with the same connection.
	p2 := p
	p2.retries = &sink.Retries{Report: func(error) {}, First: time.Millisecond, Most: time.Millisecond}
	d.cancel()
	d.work.Wait()
	second := opened(t, withFraming(a, "docker"), p2, true)
	put(t, second, "again")
	peer.wants("\x01\x00\x00\x00\x00\x00\x00\x05again")
	ended := later(func() error { return putting(context.Background(), second, nil, true) })
	peer.wantsEOF()
	peer.Close()
	if err := comes(t, ended); err != nil {
		t.Error(err)
	}
	shut(t, second)
	shut(t, d)
}

// TestListenerKilled has a process die that had a reader: the next one goes on with it.
func TestListenerKilled(t *testing.T) {
	path := temp(t)
	p, troubles := testPort(t, nil, 1)
	first := listenOn(t, path, p)
	reader := dialPeer(t, path)
	put(t, first, "one ")
	reader.wants("one ")
	p.holder.(*held).over = false
	shut(t, first) // as a process that ends before its opening does

	second, err := openListener(t.Context(), at(address{unixStream, path}), p, newPaths())
	if err != nil {
		t.Fatal(err)
	}
	late := dialPeer(t, path)
	put(t, second, "two")
	reader.wants("two")
	late.wants("two")
	p.holder.(*held).over = true
	ended := later(func() error { return putting(context.Background(), second, nil, true) })
	reader.wantsEOF()
	late.wantsEOF()
	reader.Close()
	late.Close()
	if err := comes(t, ended); err != nil {
		t.Error(err)
	}
	shut(t, second)
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket file is still there: %v", err)
	}
	if len(troubles) != 0 {
		t.Errorf("trouble: %v", <-troubles)
	}
}

// TestSlowReaderDrops has one reader that does not read and another that does, with a policy that drops.
func TestSlowReaderDrops(t *testing.T) {
	for _, pol := range []policy{dropOldest, spill} {
		path := temp(t)
		p, _ := testPort(t, nil, 1)
		s := at(address{unixStream, path})
		s.policy, s.queue, s.spillDir, s.framing = pol, queueLeast, t.TempDir(), "lines"
		l, err := openListener(t.Context(), s, p, newPaths())
		if err != nil {
			t.Fatal(err)
		}
		slow, quick := dialPeer(t, path), dialPeer(t, path)
		text := strings.Repeat(strings.Repeat("x", 1023)+"\n", 32)
		for range 64 {
			put(t, l, text)
			quick.wants(text)
		}
		if n := p.holder.(*held).dropped[sink.Stdout]; n == 0 || n%1024 != 0 {
			t.Errorf("%s: %d bytes were dropped", pol, n)
		}
		ended := later(func() error { return putting(context.Background(), l, nil, true) })
		all, err := io.ReadAll(slow)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(all), "bytes of stdout were dropped here]\n") {
			t.Errorf("%s: the gap is not stamped", pol)
		}
		if err := comes(t, ended); err != nil {
			t.Error(err)
		}
		shut(t, l)
	}
}

func TestAllowed(t *testing.T) {
	me, other := uint32(os.Geteuid()), uint32(os.Geteuid()+1)
	for _, c := range []struct {
		allow allow
		in    bool
	}{
		{allow{}, true},
		{allow{users: []uint32{other, me}}, true},
		{allow{users: []uint32{other}}, false},
		{allow{groups: []uint32{uint32(os.Getegid())}}, true},
		{allow{groups: []uint32{1 << 30}}, false},
	} {
		path := temp(t)
		p, troubles := testPort(t, nil, 1)
		s := at(address{unixStream, path})
		s.allow = c.allow
		l, err := openListener(t.Context(), s, p, newPaths())
		if err != nil {
			t.Fatal(err)
		}
		reader := dialPeer(t, path)
		put(t, l, "hello")
		if c.in {
			reader.wants("hello")
		} else {
			reader.wantsEOF()
			if err := troubles.next(t); err == nil || !strings.Contains(err.Error(), "is not in users= or groups=") {
				t.Errorf("told %v", err)
			}
		}
		shut(t, l)
	}
}

// TestPackets sends each line as a packet.
func TestPackets(t *testing.T) {
	srv, a := newServer(t, "unixpacket", temp(t))
	child, input := newChild(t)
	p, _ := testPort(t, input, 1)
	d := opened(t, withFraming(a, "lines"), p, false)
	peer := srv.accept()
	put(t, d, "one\ntwo\n")
	b := make([]byte, 100)
	for _, want := range []string{"one\n", "two\n"} {
		if n, err := peer.Read(b); err != nil || string(b[:n]) != want {
			t.Errorf("a packet %q, %v, want %q", b[:n], err, want)
		}
	}
	peer.says("to the child")
	child.wants(t, "to the child")
	shut(t, d)

	path := temp(t)
	gram, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer gram.Close()
	p, _ = testPort(t, nil, 1)
	d = opened(t, withFraming(address{unixGram, path}, "journald"), p, false)
	put(t, d, "hello\n")
	gram.SetReadDeadline(time.Now().Add(patience))
	big := make([]byte, 1000)
	if n, err := gram.Read(big); err != nil || !strings.HasPrefix(string(big[:n]), "MESSAGE=hello\nPRIORITY=6\n") {
		t.Errorf("a datagram %q, %v", big[:n], err)
	}
	putLast(t, d)
	shut(t, d)
}

func TestDirect(t *testing.T) {
	srv, a := newServer(t, "unix", temp(t))
	files, err := openDirect(t.Context(), request(t, a.String(), map[string]string{"mode": "direct"}, sink.Stdin, sink.Stdout))
	if err != nil || len(files) != 2 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	peer := srv.accept()
	for i, f := range files {
		control(f, func(fd int) {
			if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
				t.Errorf("file %d has flags %#x, %v: a child wants it blocking", i, flags, err)
			}
		})
		io.WriteString(f, "hello")
		f.Close()
	}
	peer.wants("hellohello")
	peer.wantsEOF()
}

func TestVsock(t *testing.T) {
	n, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Skipf("vsock is missing: %v", err)
	}
	unix.Close(n)
	s := at(address{vsock, "1:29000"})
	p, _ := testPort(t, nil, 1)
	l, err := openListener(t.Context(), s, p, newPaths())
	if err != nil {
		t.Skipf("vsock cannot be listened on here: %v", err)
	}
	defer shut(t, l)
	c, err := s.dial(t.Context())
	if err != nil {
		t.Skipf("vsock has no loopback here (kernel module vsock_loopback): %v", err)
	}
	defer c.Close()
	put(t, l, "hello")
	peer{t, c}.wants("hello")
}

// certify makes a certificate for a name, signed by ca, or by itself where that is nil, and writes it and its key.
func certify(t *testing.T, dir, name string, ca *tls.Certificate) (cert tls.Certificate, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<60))
	what := &x509.Certificate{
		SerialNumber: serial, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: ca == nil, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	parent, signer := what, any(key)
	if ca != nil {
		parent, signer = ca.Leaf, ca.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, what, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if cert, err = tls.LoadX509KeyPair(certFile, keyFile); err != nil {
		t.Fatal(err)
	}
	return cert, certFile, keyFile
}

// TestTLS has a server that wants a client's certificate, then one of our own that does.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	ca, caFile, _ := certify(t, dir, "ca", nil)
	serverCert, serverFile, serverKey := certify(t, dir, "server", &ca)
	_, clientFile, clientKey := certify(t, dir, "client", &ca)
	_, strangeFile, strangeKey := certify(t, dir, "stranger", nil)
	pool := x509.NewCertPool()
	pool.AddCert(ca.Leaf)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{serverCert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	spec := func(arg string, options map[string]string) settings {
		t.Helper()
		s, err := parseSettings(request(t, arg, options, sink.Stdout))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	arg := "tls:" + ln.Addr().String()
	with := map[string]string{"ca": caFile, "cert": clientFile, "key": clientKey, "framing": "lines"}
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := ln.Accept()
		if err == nil {
			err = c.(*tls.Conn).Handshake()
		}
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	p, _ := testPort(t, nil, 1)
	d := opened(t, spec(arg, with), p, false)
	c := <-accepted
	defer c.Close()
	put(t, d, "hello\n")
	b := make([]byte, 6)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello\n" {
		t.Errorf("the peer read %q, %v", b, err)
	}
	shut(t, d)

	// A server that does not take our certificate, or wants one that we do not have: in TLS 1.3 it says so when our handshake is over.
	for what, with := range map[string]map[string]string{
		"a strange certificate": {"ca": caFile, "cert": strangeFile, "key": strangeKey, "framing": "lines"},
		"no certificate":        {"ca": caFile, "framing": "lines"},
	} {
		go func() {
			if c, err := ln.Accept(); err == nil {
				c.(*tls.Conn).Handshake()
				c.Close()
			}
		}()
		if _, err := openDialled(t.Context(), spec(arg, with), p, false); err == nil || !strings.Contains(err.Error(), "the peer does not let us in: tls: ") {
			t.Errorf("with %s: %v", what, err)
		}
	}

	// A server whose certificate nobody we know has signed.
	go func() {
		if c, err := ln.Accept(); err == nil {
			c.(*tls.Conn).Handshake()
			c.Close()
		}
	}()
	with["ca"] = strangeFile
	if _, err := openDialled(t.Context(), spec(arg, with), p, false); err == nil || !strings.Contains(err.Error(), "TLS handshake") {
		t.Errorf("a stranger's server: %v", err)
	}

	// Ours, with a client of ours and with a stranger.
	s := spec("", map[string]string{"listen": arg, "ca": caFile, "cert": serverFile, "key": serverKey})
	ln.Close()
	p, troubles := testPort(t, nil, 1)
	l, err := openListener(t.Context(), s, p, newPaths())
	if err != nil {
		t.Fatal(err)
	}
	defer shut(t, l)
	dialTLS := func(certFile, keyFile string) *tls.Conn {
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			t.Fatal(err)
		}
		c, err := tls.Dial("tcp", s.name, &tls.Config{RootCAs: pool, ServerName: "server", Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	reader := dialTLS(clientFile, clientKey)
	put(t, l, "hello")
	if _, err := io.ReadFull(reader, b[:5]); err != nil || string(b[:5]) != "hello" {
		t.Errorf("a reader read %q, %v", b[:5], err)
	}
	stranger := dialTLS(strangeFile, strangeKey) // in TLS 1.3 it learns only when it reads
	if _, err := stranger.Read(b); err == nil {
		t.Error("a stranger was let in")
	}
	if err := troubles.next(t); err == nil || !strings.Contains(err.Error(), "TLS handshake") {
		t.Errorf("told %v", err)
	}
}
