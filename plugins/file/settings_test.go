package file

import (
	"os"
	"strings"
	"testing"

	"github.com/muxd/muxd/sink"
)

// request is what the SDK makes of a spec.
func request(t *testing.T, arg string, options map[string]string, streams ...sink.Stream) *sink.Request {
	t.Helper()
	p := Plugin()
	if streams == nil {
		streams = []sink.Stream{sink.Stdout, sink.Stderr}
	}
	r := &sink.Request{
		Arg: arg, Streams: streams, Options: sink.Values{},
		Child: sink.Child{ID: "k3x9", Name: "web", Run: 2, Command: "sh"},
	}
	known := map[string]bool{}
	for _, o := range p.Options {
		known[o.Name] = true
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
	for name := range options {
		if !known[name] {
			t.Fatalf("no option %s", name)
		}
	}
	return r
}

func TestCheck(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	type options = map[string]string
	for _, c := range []struct {
		arg      string
		options  options
		wiring   sink.Wiring
		location string
		err      string
	}{
		{"/l/a.log", nil, sink.Pipe, "/l/a.log", ""},
		{"/l//x/../a.log", nil, sink.Pipe, "/l/a.log", ""},
		{"/l/{name}-{stream}.{run}.log", nil, sink.Pipe, "/l/web-stdout.2.log, /l/web-stderr.2.log", ""},
		{"/l/{host}/{id}", nil, sink.Pipe, "/l/" + host + "/k3x9", ""},
		{"/l/a", options{"mode": "direct"}, sink.Direct, "/l/a", ""},
		{"/l/a", options{"mode": "direct", "format": "raw"}, sink.Direct, "/l/a", ""},
		{"/l/a", options{"mode": "direct", "format": "cri"}, 0, "", "format=cri with mode=direct"},
		{"/l/{nam}.log", nil, 0, "", "unknown placeholder {nam}"},
		{"/l/{name", nil, 0, "", "no closing brace"},
		{"/l/", nil, 0, "", "names a directory"},
		{"a.log", nil, 0, "", "relative"},
		{"/a", options{"perm": "0999"}, 0, "", "octal"},
		{"/a", options{"perm": "4755"}, 0, "", "octal"},
		{"/a", options{"max-line": "24KiB"}, sink.Pipe, "/a", ""},
		{"/a", options{"max-line": "25KiB"}, 0, "", "24 KiB"},
		{"/a", options{"max-line": "0"}, 0, "", "max-line=0"},
	} {
		r := request(t, c.arg, c.options)
		wiring, err := Plugin().Check(r)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s %v: error %v, want one with %q", c.arg, c.options, err, c.err)
			}
			continue
		}
		if err != nil || wiring != c.wiring || r.Location != c.location {
			t.Errorf("%s %v: %v %q %v, want %v %q", c.arg, c.options, wiring, r.Location, err, c.wiring, c.location)
		}
	}
}

func TestNamesCannotLeadOut(t *testing.T) {
	for _, name := range []string{"../../etc/passwd", "..", "a/b", "."} {
		r := request(t, "/l/{name}", nil)
		r.Child.Name = name
		if _, err := Plugin().Check(r); err == nil || !strings.Contains(err.Error(), "cannot be part of a file's name") {
			t.Errorf("name %q: %v", name, err)
		}
	}
	r := request(t, "/l/{name}.log", nil)
	r.Child.Name = ""
	if _, err := Plugin().Check(r); err != nil || r.Location != "/l/k3x9.log" {
		t.Errorf("no name: %q %v", r.Location, err)
	}
}
