package socket

import (
	"crypto/tls"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/muxd/muxd/sink"
)

// settings is a request, understood.
type settings struct {
	address
	listen   bool
	direct   bool
	perm     os.FileMode
	allow    allow
	tls      *tls.Config // nil where the network is another
	policy   policy
	framing  string
	facility int
	longest  int // text of a record
	queue    int // bytes
	spillDir string
	outputs  int // how many of the streams are the child's output
}

func (s settings) location() string {
	if s.listen {
		return "listen=" + s.address.String()
	}
	return s.address.String()
}

// moves says whether bytes go from the stage to the connection as they are.
func (s settings) moves() bool {
	return !s.listen && s.framing == "raw" && s.policy == block && s.network.spliced()
}

// The bounds of queue, and of max-line where the framing may make six bytes of one.
const (
	queueLeast  = 128 << 10
	queueMost   = 1 << 30
	lineMost    = sink.StateMost
	lineMostOfJ = 10 << 10
)

// exact says whether a connection outlives this process with what is under way on it: a TLS connection does not, and of packets it
// is not known whether the last one was sent.
func (s settings) exact() bool { return s.network.spliced() }

// options of the plugin.
func options() []sink.Option {
	return []sink.Option{
		{Name: "listen", Type: sink.String, Help: "instead of an address: unix:PATH, unix-seqpacket:PATH, tcp:HOST:PORT, " +
			"tls:HOST:PORT or vsock:CID:PORT, where readers connect"},
		{Name: "mode", Type: sink.Enum, Values: []string{"pipe", "direct"}, Default: "pipe",
			Help: "pipe: the sink writes to the connection; direct: the child has the connection itself as its stdio"},
		{Name: "framing", Type: sink.Enum, Values: []string{"raw", "lines", "docker", "syslog", "journald", "json"}, Default: "raw",
			Help: "raw: the bytes as they are; lines: whole lines; docker: 8 bytes before each piece; syslog: RFC 5424; " +
				"journald: its native protocol; json: an object a line"},
		{Name: "policy", Type: sink.Enum, Values: []string{"block", "drop-oldest", "drop-newest", "spill"}, Default: "block",
			Help: "what happens while the peer does not take the output and the queue is full: the child waits, or output is " +
				"dropped and counted; spill: the queue is a file, whose oldest is dropped when it is full"},
		{Name: "queue", Type: sink.Size, Help: "how much waits for a peer, each its own; 1MiB, and 64MiB with policy=spill"},
		{Name: "spill-dir", Type: sink.Path, Default: "/var/tmp", Help: "with policy=spill: where the queue's file is made, without a name"},
		{Name: "max-line", Type: sink.Size, Default: "7KiB",
			Help: "the longest text of a line; a longer one becomes several (7KiB is what syslog daemons take)"},
		{Name: "facility", Type: sink.String, Default: "daemon",
			Help: "with framing=syslog: the messages' facility, as in syslog.conf(5): daemon, user, local0 and so on"},
		{Name: "perm", Type: sink.String, Default: "0600", Help: "with listen=unix...: permissions of the socket file, octal"},
		{Name: "users", Type: sink.String, Help: "with listen=unix...: names or numbers, with colons between, of who may connect"},
		{Name: "groups", Type: sink.String, Help: "with listen=unix...: names or numbers, with colons between, whose members may connect"},
		{Name: "ca", Type: sink.Path, Help: "with tls: certificates, in PEM, of who may sign the peer's; the system's by default. " +
			"With listen: peers must have one"},
		{Name: "cert", Type: sink.Path, Help: "with tls: our own certificate, in PEM"},
		{Name: "key", Type: sink.Path, Help: "with tls: the key of cert, in PEM"},
		{Name: "server-name", Type: sink.String, Help: "with tls: the name in the peer's certificate; the address's by default"},
	}
}

// parseSettings changes nothing outside; it is what Check does.
func parseSettings(r *sink.Request) (s settings, err error) {
	listen := r.Options.String("listen")
	switch {
	case listen != "" && r.Arg != "":
		return s, fmt.Errorf("both an address to connect to (%s) and listen=%s: give one of them", r.Arg, listen)
	case listen == "" && r.Arg == "":
		return s, fmt.Errorf("no address: give %s to connect to, or listen=unix:PATH", addressForms)
	case listen != "":
		s.listen = true
		if s.address, err = parseAddress(listen); err != nil {
			return s, fmt.Errorf("listen=%w", err)
		}
		if s.network == unixGram {
			return s, fmt.Errorf("listen=%s: a datagram socket has no readers; connect to one with socket:%s", listen, listen)
		}
	default:
		if s.address, err = parseAddress(r.Arg); err != nil {
			return s, err
		}
	}
	for _, st := range r.Streams {
		if st != sink.Stdin {
			s.outputs++
		}
	}
	for _, parse := range []func(*sink.Request) error{s.parseAccess, s.parseOutput, s.parseMode, s.parseTLS} {
		if err := parse(r); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (s *settings) parseAccess(r *sink.Request) (err error) {
	perm := r.Options.String("perm")
	bits, err := strconv.ParseUint(perm, 8, 32)
	if err != nil || bits > 0o777 {
		return fmt.Errorf("perm=%s: want octal permissions between 0 and 0777, as 0600", perm)
	}
	s.perm = os.FileMode(bits)
	users, groups := r.Options.String("users"), r.Options.String("groups")
	for _, name := range []string{"users", "groups"} {
		if r.Options.Has(name) && r.Options.String(name) == "" {
			return fmt.Errorf("%s= names nobody; without it everybody may connect whom the permissions let", name)
		}
	}
	if users+groups != "" && !(s.listen && s.network.unix()) {
		return fmt.Errorf("users= and groups= say who may connect to listen=unix:PATH, and do nothing here")
	}
	s.allow, err = parseAllow(users, groups)
	return err
}

func (s *settings) parseOutput(r *sink.Request) error {
	s.framing, s.policy = r.Options.String("framing"), policy(r.Options.String("policy"))
	facility := r.Options.String("facility")
	if s.facility = slices.Index(facilities, facility); s.facility < 0 {
		return fmt.Errorf("facility=%s: want one of %s", facility, strings.Join(facilities, ", "))
	}
	s.spillDir = r.Options.String("spill-dir")
	if (s.framing == "journald") != (s.framing == "journald" && s.network == unixGram) {
		return fmt.Errorf("framing=journald is for journald's socket: socket:unix-dgram:/run/systemd/journal/socket,framing=journald")
	}
	most := int64(lineMost)
	if s.framing == "json" {
		most = lineMostOfJ
	}
	line := r.Options.Int("max-line")
	if line < 1 || line > most {
		return fmt.Errorf("max-line=%d: want 1 to %d with framing=%s", line, most, s.framing)
	}
	s.longest = int(line)
	s.queue = 1 << 20
	if s.policy == spill {
		s.queue = 64 << 20
	}
	if r.Options.Has("queue") {
		n := r.Options.Int("queue")
		if n < queueLeast || n > queueMost {
			return fmt.Errorf("queue=%d: want 128KiB to 1GiB", n)
		}
		s.queue = int(n)
	}
	return nil
}

func (s *settings) parseMode(r *sink.Request) error {
	s.direct = r.Options.String("mode") == "direct"
	if !s.direct {
		return nil
	}
	switch {
	case s.listen:
		return fmt.Errorf("mode=direct connects: it cannot listen")
	case s.network == secure:
		return fmt.Errorf("mode=direct: the child would have to speak TLS itself; connect with tcp:%s if it does", s.name)
	case s.framing != "raw" || s.policy != block || r.Options.Has("queue"):
		return fmt.Errorf("mode=direct: nothing stands between the child and the connection that could have a framing, policy or queue")
	}
	return nil
}

// names splits a list with colons.
func names(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ":")
}
