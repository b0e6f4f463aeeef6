package socket

import (
	"strings"
	"testing"

	"github.com/muxd/muxd/sink"
)

// request is what the SDK makes of a spec.
func request(t *testing.T, arg string, options map[string]string, streams ...sink.Stream) *sink.Request {
	t.Helper()
	r := &sink.Request{
		Arg: arg, Streams: streams, Options: sink.Values{}, Child: sink.Child{ID: "k3x9", Name: "web", Run: 1},
	}
	for _, o := range Plugin().Options {
		text, given := options[o.Name]
		if !given && o.Default == "" {
			continue
		}
		if !given {
			text = o.Default
		}
		v, err := o.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		r.Options[o.Name] = v
	}
	return r
}

func TestCheck(t *testing.T) {
	type options = map[string]string
	long := "/" + strings.Repeat("x", pathMost-1)
	for _, c := range []struct {
		arg      string
		options  options
		location string
		err      string
	}{
		{"unix:/run/x.sock", nil, "unix:/run/x.sock", ""},
		{"unix:/run//y/../x.sock", nil, "unix:/run/x.sock", ""},
		{"unix:" + long, nil, "unix:" + long, ""},
		{"unix:" + long + "x", nil, "", "the path has 108 bytes, and a Unix socket's can have 107"},
		{"tcp:127.0.0.1:9000", nil, "tcp:127.0.0.1:9000", ""},
		{"tcp:[::1]:9000", nil, "tcp:[::1]:9000", ""},
		{"", options{"listen": "unix:/run/x.sock"}, "listen=unix:/run/x.sock", ""},
		{"", options{"listen": "unix:" + long + "x"}, "", "107"},
		{"", options{"listen": "tcp:127.0.0.1:9000"}, "listen=tcp:127.0.0.1:9000", ""},
		{"", options{"listen": "unix-dgram:/run/x"}, "", "a datagram socket has no readers"},
		{"", options{"listen": "vsock:1:9000"}, "listen=vsock:1:9000", ""},
		{"vsock:2:9000", nil, "vsock:2:9000", ""},
		{"vsock:host:9000", nil, "", "want vsock:CID:PORT in numbers"},
		{"unix-dgram:/dev/log", options{"framing": "syslog"}, "unix-dgram:/dev/log", ""},
		{"tcp:h:514", options{"framing": "journald"}, "", "framing=journald is for journald's socket"},
		{"unix-dgram:/x", options{"framing": "journald"}, "unix-dgram:/x", ""},
		{"unix:/x", options{"queue": "1KiB"}, "", "want 128KiB to 1GiB"},
		{"unix:/x", options{"max-line": "25KiB"}, "", "want 1 to 24576"},
		{"unix:/x", options{"max-line": "12KiB", "framing": "json"}, "", "want 1 to 10240"},
		{"tcp:h:514", options{"framing": "syslog", "facility": "demon"}, "", "want one of kern, user"},
		{"unix:/x", options{"users": "root"}, "", "do nothing here"},
		{"", options{"listen": "unix:/x", "users": "root:1000"}, "listen=unix:/x", ""},
		{"", options{"listen": "unix:/x", "users": "no such user"}, "", "there is no user"},
		{"", options{"listen": "unix:/x", "users": ""}, "", "users= names nobody"},
		{"", options{"listen": "unix:/x", "groups": ""}, "", "groups= names nobody"},
		{"", options{"listen": "unix:/x", "groups": "no such group"}, "", "there is no group"},
		{"unix:/x", options{"cert": "/x"}, "", "do nothing with unix:/x"},
		{"tls:h:1", options{"cert": "/x"}, "", "cert= and key= belong together"},
		{"tls:h:1", options{"cert": "/none", "key": "/none"}, "", "no such file"},
		{"tls:h:1", options{"ca": "/dev/null"}, "", "no certificate in PEM"},
		{"", options{"listen": "tls:h:1"}, "", "give cert= and key="},
		{"tls:h:1", options{"mode": "direct"}, "", "the child would have to speak TLS itself"},
		{"unix:/x", options{"mode": "direct", "framing": "lines"}, "", "nothing stands between"},
		{"", options{"listen": "unix:/x", "mode": "direct"}, "", "it cannot listen"},
		{"", options{"listen": "/run/x.sock"}, "", "listen=/run/x.sock: want unix:PATH"},
		{"unix:/x", options{"listen": "unix:/y"}, "", "give one of them"},
		{"", nil, "", "no address"},
		{"unix:x", nil, "", "must be absolute"},
		{"unix:/run/", nil, "", "directory"},
		{"unix:", nil, "", "must be absolute"},
		{"/run/x.sock", nil, "", "want unix:PATH, "},
		{"udp:127.0.0.1:1", nil, "", "want unix:PATH, "},
		{"tcp:9000", nil, "", "want tcp:HOST:PORT"},
		{"tcp::9000", nil, "", "want tcp:HOST:PORT"},
		{"tcp:host:", nil, "", "want tcp:HOST:PORT"},
		{"tcp:host:70000", nil, "", "between 1 and 65535"},
		{"unix:/x", options{"perm": "888"}, "", "octal"},
	} {
		r := request(t, c.arg, c.options, sink.Stdout)
		wiring, err := Plugin().Check(r)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s %v: error %v, want one with %q", c.arg, c.options, err, c.err)
			}
			continue
		}
		if err != nil || wiring != sink.Pipe || r.Location != c.location {
			t.Errorf("%s %v: %v %q %v", c.arg, c.options, wiring, r.Location, err)
		}
	}
}
