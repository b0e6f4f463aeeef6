package socket

import (
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
	"time"
)

// verdictTime bounds how long a server that has asked for our certificate has to say whether it lets us in. One that sends no
// tickets says nothing when it does.
const verdictTime = time.Second

// verdict finds out whether a server takes our certificate. In TLS 1.3 it looks at that only when the handshake is over for us, and
// what is written meanwhile is lost with the connection (RFC 8446 section 2). A ticket for a later session comes only to
// whom it has let in: none is kept, but it ends the wait. It is the cache of sessions.
type verdict struct {
	under *net.TCPConn
	asked atomic.Bool // the server wants a certificate
	over  atomic.Bool // so is the handshake
}

// awaitVerdict returns a configuration for one connection as a client, and what finds the verdict of its server.
func awaitVerdict(c *net.TCPConn, config *tls.Config) (*verdict, *tls.Config) {
	v := &verdict{under: c}
	config = config.Clone()
	certificates := config.Certificates
	config.GetClientCertificate = func(q *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		v.asked.Store(true)
		for i := range certificates {
			if q.SupportsCertificate(&certificates[i]) == nil {
				return &certificates[i], nil
			}
		}
		return &tls.Certificate{}, nil // we have none that the server would take
	}
	config.ClientSessionCache = v
	return v, config
}

// of blocks until the server has let t in, for verdictTime at most, and returns what it has sent with that; or its alert.
func (v *verdict) of(t *tls.Conn) (early []byte, err error) {
	if v == nil || !v.asked.Load() || t.ConnectionState().Version < tls.VersionTLS13 {
		return nil, nil
	}
	v.over.Store(true)
	defer t.SetReadDeadline(time.Time{})
	if err := t.SetReadDeadline(time.Now().Add(verdictTime)); err != nil {
		return nil, err
	}
	var b [1]byte
	n, err := t.Read(b[:])
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" {
		return nil, err
	}
	return b[:n], nil // an end of its own, or of the wait, is none of the verdict's business
}

// Get has no session.
func (v *verdict) Get(string) (*tls.ClientSessionState, bool) { return nil, false }

// Put gets a ticket.
func (v *verdict) Put(string, *tls.ClientSessionState) {
	if v.over.Load() {
		v.under.SetReadDeadline(time.Now())
	}
}
