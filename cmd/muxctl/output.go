package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	units "github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/control/controlpb"
)

// table prints rows in columns.
type table struct {
	w *tabwriter.Writer
}

func newTable(head ...string) *table {
	t := &table{tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)}
	t.row(head...)
	return t
}

func (t *table) row(cells ...string) { fmt.Fprintln(t.w, strings.Join(cells, "\t")) }

func (t *table) print() error { return t.w.Flush() }

// printJSON prints v, indented.
func printJSON(v any) error {
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// printJSONLine prints v on one line, for streams of values.
func printJSONLine(v any) error {
	e := json.NewEncoder(os.Stdout)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// childView is a child as -o json gives it. Its fields' names are stable.
type childView struct {
	ID          string       `json:"id"`
	Name        string       `json:"name"`
	State       string       `json:"state"`
	PID         int          `json:"pid"`
	Command     []string     `json:"command"`
	Cwd         string       `json:"cwd"`
	User        string       `json:"user,omitempty"`
	Created     *time.Time   `json:"created,omitempty"`
	Started     *time.Time   `json:"started,omitempty"`
	Exited      *time.Time   `json:"exited,omitempty"`
	Finished    *time.Time   `json:"finished,omitempty"`
	ExitCode    *int         `json:"exit_code,omitempty"` // absent while it runs, after a signal, and where it is not known
	Signal      string       `json:"signal,omitempty"`
	Run         int          `json:"run"`
	Restart     string       `json:"restart"`
	Remove      bool         `json:"remove"`
	Adopted     bool         `json:"adopted,omitempty"` // pid is 0 where it was not told
	Error       string       `json:"error,omitempty"`
	Sinks       []sinkView   `json:"sinks"`
	Holders     []holderView `json:"holders,omitempty"`
	Cgroup      string       `json:"cgroup,omitempty"`    // with inspect, where muxd has one to divide
	Processes   []int32      `json:"processes,omitempty"` // of it
	UserUsec    int64        `json:"user_usec"`
	SystemUsec  int64        `json:"system_usec"`
	MaxRSSBytes int64        `json:"max_rss_bytes"`
	Rows        int          `json:"rows,omitempty"`
	Cols        int          `json:"cols,omitempty"`
}

type sinkView struct {
	Stream   string `json:"stream"`
	Spec     string `json:"spec"`
	Plugin   string `json:"plugin,omitempty"`
	Wiring   string `json:"wiring"`
	State    string `json:"state"`
	Bytes    uint64 `json:"bytes"`
	Dropped  uint64 `json:"dropped"`
	Viewers  int    `json:"viewers"`
	Error    string `json:"error,omitempty"`
	Location string `json:"location,omitempty"`
	Branch   int    `json:"branch,omitempty"` // where a stream has several sinks: which of them
	Policy   string `json:"policy,omitempty"`
	Missed   uint64 `json:"missed,omitempty"` // of a branch: dropped before it came to the sink

	Metrics map[string]int64 `json:"metrics,omitempty"` // the sink's own
}

type holderView struct {
	Stream  string `json:"stream"`
	PID     int    `json:"pid"`
	Command string `json:"command"`
}

func viewOf(r *controlpb.Child) childView {
	v := childView{
		ID: r.Id, Name: r.Name, State: r.State, PID: int(r.Pid), Command: []string{}, Cwd: string(r.Cwd), User: r.User,
		Created: timeOf(r.Created), Started: timeOf(r.Started), Exited: timeOf(r.Exited), Finished: timeOf(r.Finished),
		Run: int(r.Run), Restart: restartText(r.Restart), Remove: r.Remove, Adopted: r.Adopted, Error: r.Error, Sinks: []sinkView{},
		Cgroup: r.Cgroup, Processes: r.Processes, UserUsec: r.UserUsec, SystemUsec: r.SystemUsec, MaxRSSBytes: r.MaxRss,
	}
	for _, a := range r.Argv {
		v.Command = append(v.Command, string(a))
	}
	if r.StatusKnown {
		ws := syscall.WaitStatus(r.Status)
		if ws.Signaled() {
			v.Signal = unix.SignalName(ws.Signal())
		} else {
			code := ws.ExitStatus()
			v.ExitCode = &code
		}
	}
	for _, s := range r.Sinks {
		if s.Stream == "console" {
			v.Rows, v.Cols = int(r.Size.GetRows()), int(r.Size.GetCols())
		}
		var metrics map[string]int64
		if len(s.Metrics) > 0 {
			metrics = map[string]int64{}
		}
		for _, m := range s.Metrics {
			metrics[m.Name] = m.Value
		}
		v.Sinks = append(v.Sinks, sinkView{
			Metrics: metrics, Stream: s.Stream, Spec: s.Spec, Plugin: s.Plugin, Wiring: s.Wiring, State: s.State, Bytes: s.Bytes,
			Dropped: s.Dropped, Viewers: int(s.Viewers), Error: s.Error, Location: s.Location,
			Branch: int(s.Branch), Policy: s.Policy, Missed: s.Missed,
		})
	}
	for _, h := range r.Holders {
		v.Holders = append(v.Holders, holderView{h.Stream, int(h.Pid), h.Command})
	}
	return v
}

func timeOf(nanos int64) *time.Time {
	if nanos == 0 {
		return nil
	}
	t := time.Unix(0, nanos)
	return &t
}

// stateText is the state for people, with how it ended.
func stateText(r *controlpb.Child) string {
	switch {
	case r.State == "finished" || r.State == "exited":
		return r.State + " (" + endText(r) + ")"
	case r.State == "running" && r.Run > 1:
		return fmt.Sprintf("running (run %d)", r.Run)
	}
	return r.State
}

// endText says how a child ended.
func endText(r *controlpb.Child) string {
	ws := syscall.WaitStatus(r.Status)
	switch {
	case r.State == "failed":
		return "failed: " + r.Error
	case onlyStreams(r):
		return "its streams have ended"
	case r.Exited == 0:
		return "never started again"
	case !r.StatusKnown:
		return "exit status unknown"
	case ws.Signaled():
		return "killed by " + unix.SignalName(ws.Signal())
	}
	return fmt.Sprintf("exit status %d", ws.ExitStatus())
}

// onlyStreams says whether r was adopted without a process.
func onlyStreams(r *controlpb.Child) bool { return r.Adopted && r.Pid == 0 }

func restartText(r controlpb.Restart) string {
	return strings.ReplaceAll(strings.ToLower(r.String()), "_", "-")
}

// ageText is how long ago a time was.
func ageText(nanos int64) string {
	if nanos == 0 {
		return ""
	}
	d := time.Since(time.Unix(0, nanos))
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}

// timeText is a time and how long ago it was.
func timeText(nanos int64) string {
	return fmt.Sprintf("%s (%s ago)", time.Unix(0, nanos).Format("2006-01-02 15:04:05"), ageText(nanos))
}

func sizeText(n uint64) string { return units.BytesSize(float64(n)) }

// copied says whether s copies its stream to several sinks, rather than being one.
func copied(r *controlpb.Child, s *controlpb.Sink) bool {
	return s.Spec == "fanout" && slices.ContainsFunc(r.Sinks, func(o *controlpb.Sink) bool { return o.Stream == s.Stream && o.Branch > 0 })
}

// sinksText names a child's sinks, each once.
func sinksText(r *controlpb.Child) string {
	var out []string
	for _, s := range r.Sinks {
		if s.Wiring == "null" || copied(r, s) || len(out) > 0 && out[len(out)-1] == s.Spec {
			continue
		}
		out = append(out, s.Spec)
	}
	if len(out) == 0 {
		return "null"
	}
	return strings.Join(out, " ")
}

// commandOf is the command line of a child, for people.
func commandOf(r *controlpb.Child, most int) string {
	if r.Adopted {
		return "(adopted)"
	}
	return commandText(r.Argv, most)
}

// commandText is a command line as a shell would take it, and not longer than most where that is not 0.
func commandText(argv [][]byte, most int) string {
	var words []string
	for _, a := range argv {
		words = append(words, quote(string(a)))
	}
	s := strings.Join(words, " ")
	if most > 0 && utf8.RuneCountInString(s) > most {
		s = string([]rune(s)[:most-3]) + "..."
	}
	return s
}

const plainLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=:,./@%^"

// quote writes s as one word of a shell. What a terminal would act on is escaped.
func quote(s string) string {
	switch {
	case s != "" && strings.Trim(s, plainLetters) == "":
		return s
	case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == utf8.RuneError }):
		return "$" + strings.ReplaceAll(fmt.Sprintf("%+q", s), `"`, `'`)
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
