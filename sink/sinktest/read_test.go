package sinktest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/muxd/muxd/sink/sinktest"
)

// What a command prints is compared, as what stands in a file is: all of it passes, and a byte too few does not.
func TestReadCommand(t *testing.T) {
	t.Parallel()
	dir := build(t)
	for _, c := range []struct {
		read   string
		failed []string
		detail string
	}{
		{"cat {out}", nil, ""},
		{"head -c 9999 {out}", []string{"bytes.small", "bytes.binary"}, "bytes came out"},
		{"echo no such bucket >&2; exit 3", []string{"bytes.small", "bytes.binary"}, "exit status 3: no such bucket"},
	} {
		t.Run(c.read, func(t *testing.T) {
			t.Parallel()
			o := options(dir, "plain:{out}")
			o.Read, o.Only = c.read, []string{"bytes.small", "bytes.binary"}
			rep, err := sinktest.Check(context.Background(), o, nil)
			if err != nil {
				t.Fatal(err)
			}
			var failed []string
			for _, r := range rep.Results {
				if r.Outcome == sinktest.Failed {
					failed = append(failed, r.ID)
					if !strings.Contains(r.Detail, c.detail) {
						t.Errorf("%s: %s; want %q in it", r.ID, r.Detail, c.detail)
					}
				}
			}
			if !slices.Equal(failed, c.failed) {
				t.Errorf("these checks failed: %v, want %v", failed, c.failed)
			}
		})
	}
}

// muxctl prints the report as JSON, and exits 1 when a check failed.
func TestJSON(t *testing.T) {
	t.Parallel()
	dir := build(t)
	for defect, want := range map[string]struct {
		code int
		pure sinktest.Outcome
	}{
		"none":         {0, sinktest.Passed},
		"options.pure": {1, sinktest.Failed},
	} {
		t.Run(defect, func(t *testing.T) {
			t.Parallel()
			c := exec.Command(dir+"/muxctl", "plugin", "check", dir+"/plain", "--spec", "plain:{out}", "--read", "cat {out}",
				"--only", "options.pure,stdin.exit,start.cookie", "-o", "json", "--", "plain", defect)
			var out, stderr bytes.Buffer
			c.Stdout, c.Stderr = &out, &stderr
			c.Run()
			if got := c.ProcessState.ExitCode(); got != want.code || stderr.Len() > 0 {
				t.Errorf("it exits with %d and says %q, want %d and nothing", got, stderr.String(), want.code)
			}
			var rep sinktest.Report
			d := json.NewDecoder(&out)
			d.DisallowUnknownFields()
			if err := d.Decode(&rep); err != nil || d.More() {
				t.Fatalf("it is not one report: %v: %s", err, out.String())
			}
			got := map[string]sinktest.Outcome{}
			for _, r := range rep.Results {
				got[r.ID+" "+r.Spec] = r.Outcome
				if r.Expect == "" || (r.Outcome == sinktest.Passed) != (r.Detail == "") {
					t.Errorf("%s: expect %q, detail %q", r.ID, r.Expect, r.Detail)
				}
			}
			if rep.Plugin != "plain" || rep.Version != "1" || !slices.Equal(rep.Command, []string{dir + "/plain", "plain", defect}) ||
				len(rep.Results) != 3 || got["start.cookie "] != sinktest.Passed || got["stdin.exit plain:{out}"] != sinktest.NotApplicable ||
				got["options.pure plain:{out}"] != want.pure {
				t.Errorf("the report is %+v", rep)
			}
		})
	}
}
