package socket

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"syscall"

	"github.com/muxd/muxd/sink"
)

// secureConn is a TLS connection. What has been encrypted is in this process's memory, and so are its keys: it ends with it.
type secureConn struct {
	*tls.Conn
	under *net.TCPConn
	early []byte // what came with the peer's verdict, and is to be read first
}

// Read gives what the peer has sent, first that which came early. One goroutine at a time may read.
func (c *secureConn) Read(b []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(b, c.early)
		c.early = c.early[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

// SyscallConn gives the socket below, for what the kernel knows of it.
func (c *secureConn) SyscallConn() (syscall.RawConn, error) { return c.under.SyscallConn() }

// parseTLS reads the certificates, so that what is wrong with them is said before the child is started.
func (s *settings) parseTLS(r *sink.Request) error {
	ca, cert, key := r.Options.String("ca"), r.Options.String("cert"), r.Options.String("key")
	name := r.Options.String("server-name")
	if s.network != secure {
		if ca+cert+key+name != "" {
			return fmt.Errorf("ca=, cert=, key= and server-name= are for tls:HOST:PORT, and do nothing with %s", s.address)
		}
		return nil
	}
	switch {
	case (cert == "") != (key == ""):
		return fmt.Errorf("cert= and key= belong together: give both, or neither")
	case s.listen && cert == "":
		return fmt.Errorf("listen=%s: a TLS server needs a certificate: give cert= and key=", s.address)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: name}
	if c.ServerName == "" {
		c.ServerName, _, _ = net.SplitHostPort(s.name) // parseAddress has done that before
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return fmt.Errorf("cert=%s, key=%s: %w", cert, key, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return fmt.Errorf("ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("ca=%s: there is no certificate in PEM in it", ca)
		}
		c.ClientCAs, c.ClientAuth = c.RootCAs, tls.RequireAndVerifyClientCert
	}
	s.tls = c
	return nil
}

// handshake makes c secure, as the client, or as the server for a reader that has connected. It takes ownership of c.
func handshake(ctx context.Context, c *net.TCPConn, config *tls.Config, server bool) (conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var v *verdict
	t := tls.Server(c, config)
	if !server {
		v, config = awaitVerdict(c, config)
		t = tls.Client(c, config)
	}
	if err := t.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	early, err := v.of(t)
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("TLS handshake: the peer does not let us in: %w; give cert= and key= of a certificate that it accepts", cause(err))
	}
	return &secureConn{t, c, early}, nil
}
