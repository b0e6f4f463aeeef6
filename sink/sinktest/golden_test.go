package sinktest

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/muxd/muxd/internal/golden"
	"github.com/muxd/muxd/sink/sinkpb"
)

// goldenRecords has the log records of testdata.
var goldenRecords = map[string]*sinkpb.LogRecord{
	"log-record":    {Time: 1777888800000000123, Stream: sinkpb.Stream_STDOUT, Text: []byte("hello"), Cursor: "42"},
	"log-partial":   {Stream: sinkpb.Stream_STDERR, Text: []byte{0, 0xff, 0x7f}, Partial: true},
	"log-empty":     {Stream: sinkpb.Stream_STDOUT},
	"log-end":       {End: true},
	"log-end-error": {End: true, Error: "it is gone"},
}

func TestGoldenFiles(t *testing.T) {
	seen := 0
	for name, b := range golden.Files(t) {
		want, isRecord := goldenRecords[name]
		switch {
		case strings.HasPrefix(name, "malformed-handshake"):
			if _, _, err := parseHandshake(string(b)); err == nil {
				t.Errorf("%s.hex: %q was taken", name, b)
			}
		case strings.HasPrefix(name, "handshake"):
			socket, version, err := parseHandshake(string(b))
			wantVersion := map[string]string{"handshake": "1", "handshake-other-version": "7"}[name]
			if err != nil || socket != "/run/muxd/plugins/plugin123/socket" || version != wantVersion {
				t.Errorf("%s.hex: %q is %s of version %s (error: %v)", name, b, socket, version, err)
			}
		case isRecord:
			seen++
			got := &sinkpb.LogRecord{}
			if err := proto.Unmarshal(b, got); err != nil || !proto.Equal(got, want) {
				t.Errorf("%s.hex: it is %v (error: %v), want %v", name, got, err, want)
			}
			if made, err := proto.Marshal(want); err != nil || !bytes.Equal(made, b) {
				t.Errorf("%s.hex: Marshal makes %x (error: %v), want %x", name, made, err, b)
			}
		default:
			t.Errorf("%s.hex: nothing of that name is known", name)
		}
	}
	if seen != len(goldenRecords) {
		t.Errorf("%d of %d records have a file in testdata", seen, len(goldenRecords))
	}
}

func TestJUnit(t *testing.T) {
	r := Report{Plugin: "mine", Results: []Result{
		{ID: "start.slow", Outcome: Passed, Expect: "e"},
		{ID: "bytes.small", Spec: "mine:{out}", Outcome: Failed, Expect: "all < bytes", Detail: "\"none\" came", Took: 1500 * time.Millisecond},
		{ID: "logs.all", Spec: "mine:{out}", Outcome: NotApplicable, Expect: "e", Detail: "it keeps no logs"},
	}}
	var b bytes.Buffer
	if err := r.JUnit(&b); err != nil {
		t.Fatal(err)
	}
	const want = `<?xml version="1.0" encoding="UTF-8"?>
<testsuite name="muxd sink plugin mine" tests="3" failures="1" skipped="1" time="1.500">
  <testcase classname="sink.mine" name="start.slow" time="0.000"></testcase>
  <testcase classname="sink.mine" name="bytes.small mine:{out}" time="1.500">
    <failure message="all &lt; bytes">&#34;none&#34; came</failure>
  </testcase>
  <testcase classname="sink.mine" name="logs.all mine:{out}" time="0.000">
    <skipped message="it keeps no logs"></skipped>
  </testcase>
</testsuite>
`
	if b.String() != want {
		t.Errorf("it is\n%s\nwant\n%s", b.String(), want)
	}
}
