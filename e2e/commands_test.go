package e2e

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		if got = exit.ExitCode(); got < 0 {
			ts.Fatalf("want exit status %d, and it ended with %v", want, exit)
		}
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: waitfor TIMEOUT COMMAND...")
	}
	timeout, err := time.ParseDuration(args[0])
	ts.Check(err)
	for deadline := time.Now().Add(timeout); ; time.Sleep(interval) {
		err := ts.Exec(args[1], args[2:]...)
		if (err != nil) == neg {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("after %v: %v", timeout, err)
		}
	}
}

func keys(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: keys FILE GOLDEN")
	}
	got := map[string]bool{}
	for d := json.NewDecoder(strings.NewReader(ts.ReadFile(args[0]))); ; {
		var v any
		err := d.Decode(&v)
		if errors.Is(err, io.EOF) {
			break
		}
		ts.Check(err)
		collect(got, "", v)
	}
	want := strings.Fields(ts.ReadFile(args[1]))
	slices.Sort(want)
	if have := slices.Sorted(maps.Keys(got)); !slices.Equal(have, want) {
		ts.Fatalf("the fields are\n%s\nwant\n%s", strings.Join(have, "\n"), strings.Join(want, "\n"))
	}
}

// collect finds the names of all fields in v.
func collect(names map[string]bool, at string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			names[at+k] = true
			collect(names, at+k+".", e)
		}
	case []any:
		for _, e := range v {
			collect(names, at, e)
		}
	}
}

func tmpfs(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: tmpfs DIR SIZE")
	}
	dir := ts.MkAbs(args[0])
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+args[1]); err != nil {
		of(ts).t.Skipf("no tmpfs can be mounted here: %v", err)
	}
	ts.Defer(func() { unix.Unmount(dir, unix.MNT_DETACH) })
}
