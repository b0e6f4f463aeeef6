package chaos

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// writer is a child: it writes records until its stop file is there, notes how many, and exits with its status.
func writer(spec string) int {
	var kind, stop, count string
	var seed uint64
	var status int
	var deadline int64
	if _, err := fmt.Sscan(spec, &kind, &seed, &status, &deadline, &stop, &count); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 255
	}
	pause := rand.New(rand.NewPCG(seed, 2))
	var pending []byte
	n := 0
	for ; ; n++ {
		if n%64 == 0 {
			if _, err := os.Stat(stop); err == nil {
				break
			}
			if time.Now().Unix() > deadline {
				return 252
			}
		}
		pending = append(pending, record(kind, seed, n)...)
		if !due(kind, n, len(pending), pause) {
			continue
		}
		if _, err := os.Stdout.Write(pending); err != nil {
			os.WriteFile(count, fmt.Appendf(nil, "error %v", err), 0o600)
			return 254
		}
		pending = pending[:0]
	}
	if _, err := os.Stdout.Write(pending); err != nil {
		return 254
	}
	if err := os.WriteFile(count, fmt.Appendf(nil, "%d", n), 0o600); err != nil {
		return 253
	}
	return status
}

// due says whether what is pending is to be written now, and paces the child.
func due(kind string, n, pending int, pause *rand.Rand) bool {
	switch kind {
	case "tick":
		time.Sleep(500 * time.Microsecond)
		return true
	case "small":
		if n%10 == 0 {
			time.Sleep(time.Duration(2+pause.IntN(6)) * time.Millisecond)
		}
		return true
	case "big":
		if pending < 64<<10 {
			return false
		}
		time.Sleep(time.Duration(100+pause.IntN(100)) * time.Millisecond)
		return true
	case "burst":
		if n%500 == 0 {
			time.Sleep(time.Duration(60+pause.IntN(100)) * time.Millisecond)
		}
		return pause.IntN(5) > 0
	}
	if pending < 10<<10 { // binary
		return false
	}
	time.Sleep(time.Duration(5+pause.IntN(20)) * time.Millisecond)
	return true
}

// record is the n-th record of a child: a numbered line, or bytes without newlines or meaning.
func record(kind string, seed uint64, n int) []byte {
	if kind != "binary" {
		b := strconv.AppendInt(make([]byte, 0, 16+len(filler)), int64(n), 10)
		return append(append(append(b, ' '), filler[:(n*7+int(seed%91))%len(filler)]...), '\n')
	}
	r := rand.New(rand.NewPCG(seed, uint64(n)))
	var b []byte
	for range 8 + n%9 {
		b = binary.LittleEndian.AppendUint64(b, r.Uint64())
	}
	return bytes.ReplaceAll(b, []byte{'\n'}, []byte{0})
}

var filler = strings.Repeat("the quick brown fox ", 12)

// check compares what came out with what the child wrote.
func (r *result) check(t *testing.T, out []byte) {
	t.Helper()
	text, err := os.ReadFile(r.count)
	if err != nil {
		t.Errorf("%s: %v", r.name, err)
		return
	}
	records, err := strconv.Atoi(string(text))
	if err != nil {
		t.Errorf("%s: the child says %q", r.name, text)
		return
	}
	at := 0
	for n := range records {
		want := record(r.kind, r.seed, n)
		got := out[at:min(len(out), at+len(want))]
		if !bytes.Equal(got, want) {
			t.Errorf("%s (%s, %s): record %d of %d at byte %d is %.60q, want %.60q", r.name, r.kind, r.spec, n, records, at, got, want)
			return
		}
		at += len(want)
	}
	if at != len(out) {
		t.Errorf("%s (%s, %s): %d bytes behind the last record: %.60q", r.name, r.kind, r.spec, len(out)-at, out[at:])
		return
	}
	t.Logf("%s (%s, %s): %d records, %d bytes", r.name, r.kind, r.spec, records, at)
}
