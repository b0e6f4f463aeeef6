package pty

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/plugins/pty/cast"
	"github.com/muxd/muxd/sink"
)

// What is typed is recorded as the option says, and a password never.
func TestRecordInput(t *testing.T) {
	const echo, raw, secret = unix.ECHO | unix.ICANON, 0, unix.ICANON
	for input, want := range map[string]string{
		inputNo:     "",
		inputEchoed: "one|[hidden]|two|[hidden]",
		inputKeys:   "one|[hidden]|two|key|[hidden]",
	} {
		path := filepath.Join(t.TempDir(), "a.cast")
		to, err := cast.Open(path, cast.V2, cast.Header{Rows: 24, Cols: 80}, func(error) {})
		if err != nil {
			t.Fatal(err)
		}
		r := &recorder{to: to, input: input, rows: 24, cols: 80}
		for _, typed := range []struct {
			modes uint32
			text  string
		}{{echo, "one"}, {secret, "pass"}, {secret, "word"}, {echo, "two"}, {raw, "key"}, {secret, "again"}} {
			r.typed(&unix.Termios{Lflag: typed.modes}, []byte(typed.text))
		}
		r.resized(24, 80)
		r.resized(30, 90)
		r.resized(30, 90)
		if err := r.mark(context.Background(), "here"); err != nil {
			t.Fatal(err)
		}
		if err := r.close(); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var typed []string
		for _, m := range regexp.MustCompile(`"i", "(.*)"`).FindAllStringSubmatch(string(b), -1) {
			typed = append(typed, m[1])
		}
		if got := strings.Join(typed, "|"); got != want {
			t.Errorf("record-input=%s: %q, want %q", input, got, want)
		}
		if n := strings.Count(string(b), `"r", "90x30"`); n != 1 || strings.Count(string(b), `"r"`) != 1 || !strings.Contains(string(b), `"m", "here"`) {
			t.Errorf("%s", b)
		}
	}
	var none *recorder
	if err := none.mark(context.Background(), "x"); err == nil || !strings.Contains(err.Error(), "record=PATH") {
		t.Errorf("a marker without a recording: %v", err)
	}
}

func TestRecordCheck(t *testing.T) {
	for text, want := range map[string]string{
		"record-input=keys":               "no record=PATH",
		"record=/tmp/{nome}.cast":         "unknown placeholder {nome}",
		"record=/tmp/{id}-{run}-{x.cast":  "no closing brace",
		"record=/tmp/{name}-{host}.cast":  "",
		"record=/tmp/a,record-input=keys": "",
	} {
		v := sink.Values{"scrollback": int64(65536)}
		for _, o := range strings.Split(text, ",") {
			key, value, _ := strings.Cut(o, "=")
			v[key] = value
		}
		_, err := check(&sink.Request{Options: v, Child: sink.Child{ID: "abc"}})
		if got := fmt.Sprint(err); want == "" && err != nil || want != "" && !strings.Contains(got, want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
