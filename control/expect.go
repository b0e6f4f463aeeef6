package control

import (
	"bytes"
	"context"
	"errors"
	"regexp"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/muxd/muxd/control/controlpb"
)

// Expectation is what Expect waits for: the first of what is set.
type Expectation struct {
	// Pattern is looked for in the output's text: without control sequences and control characters, with newlines at the ends of
	// lines. Where it ends in $ it matches at the end of what has come so far. It is found within the last 64 KiB.
	Pattern *regexp.Regexp
	Idle    time.Duration // nothing has come for so long
	Exit    bool          // the console has ended
}

// Why says what an Expect has found.
type Why string

const (
	Matched Why = "match"
	Idle    Why = "idle"
	Exited  Why = "exit"
)

// Found is what Expect has found.
type Found struct {
	Why       Why
	Before    string   // the text before the match, or all of it: since the cursor, and no more than the last 64 KiB or so
	Match     string   // what the pattern matched
	Groups    []string // and its groups
	Cursor    Cursor   // behind it
	Lost      uint64   // bytes of output that are not kept any more
	Status    uint32   // Exited: as waitpid(2) encodes it
	HasStatus bool
}

// expectWindow is how much text is kept while a pattern has not been found.
const expectWindow = 64 << 10

// errIdle ends a wait.
var errIdle = errors.New("nothing has come")

// Expect waits until the output of a child's console since a cursor is as it is expected to be. It misses nothing: output that comes
// faster than it is looked at waits, and the child with it. With an error Found tells what there was: ctx's cause when ctx is
// done; of type *Error with codes.FailedPrecondition when the console has ended before.
func (c *Client) Expect(ctx context.Context, child string, since Cursor, e Expectation) (Found, error) {
	d, err := c.drive(ctx, child, AttachOptions{ReadOnly: true, Hold: true, Replay: since.replay()}, since)
	if err != nil {
		if f, ok := c.exited(ctx, child, e); ok {
			return f, nil
		}
		return Found{}, err
	}
	defer d.close()
	t := plainText{next: since.Offset, ground: since.Offset}
	f := Found{}
	for ready := false; ; {
		b, err := d.nextOrIdle(ctx, ready, e.Idle)
		switch {
		case errors.Is(err, errIdle):
			return f.end(Idle, &t, d), nil
		case err != nil:
			return f.end("", &t, d), err
		}
		f.Lost += b.lost
		t.write(b.first, b.data)
		if t.find(e.Pattern, &f, d) {
			return f, nil
		}
		if ready = b.ready; ready {
			err = d.behind(since, b.there)
		}
		switch {
		case err != nil:
			return Found{}, err
		case b.ended != nil && e.Exit:
			f.Status, f.HasStatus = b.ended.Status, b.ended.HasStatus
			return f.end(Exited, &t, d), nil
		case b.ended != nil:
			return f.end("", &t, d), &Error{codes.FailedPrecondition, "the console has ended"}
		}
	}
}

// end is f with all that there was.
func (f Found) end(why Why, t *plainText, d *driven) Found {
	f.Why, f.Before, f.Cursor = why, string(t.text), d.cursor(t.ground)
	return f
}

// exited says how a child ended that cannot be attached to since it has, where that is expected.
func (c *Client) exited(ctx context.Context, child string, e Expectation) (f Found, ok bool) {
	if !e.Exit {
		return f, false
	}
	r, err := c.API.Inspect(ctx, &controlpb.InspectRequest{Child: child})
	if err != nil || r.State == "starting" || r.State == "running" {
		return f, false
	}
	f = Found{Why: Exited, Cursor: Cursor{Run: r.Run}, Status: r.Status, HasStatus: r.StatusKnown}
	for _, s := range r.Sinks {
		if s.Stream == "console" && s.Wiring != "pipe" { // and not a sink behind it
			f.Cursor.Offset = s.Bytes
		}
	}
	return f, true
}

// nextOrIdle is next, and errIdle when nothing comes for idle after all that was there.
func (d *driven) nextOrIdle(ctx context.Context, ready bool, idle time.Duration) (batch, error) {
	if !ready || idle == 0 {
		return d.next(ctx)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, idle, errIdle)
	defer cancel()
	return d.next(ctx)
}

// find looks for the pattern, if there is one. Where it is not there, what is too old to be a part of it is forgotten.
func (t *plainText) find(pattern *regexp.Regexp, f *Found, d *driven) bool {
	var at []int
	if pattern != nil {
		at = pattern.FindSubmatchIndex(t.text)
	}
	if at == nil {
		t.forget()
		return false
	}
	f.Why, f.Before, f.Match = Matched, string(t.text[:at[0]]), string(t.text[at[0]:at[1]])
	for i := 2; i < len(at); i += 2 {
		group := ""
		if at[i] >= 0 {
			group = string(t.text[at[i]:at[i+1]])
		}
		f.Groups = append(f.Groups, group)
	}
	f.Cursor = d.cursor(t.offset(at[1]))
	return true
}

// forget leaves no more than expectWindow, from the beginning of a line where there is one.
func (t *plainText) forget() {
	n := len(t.text) - expectWindow
	if n <= 0 {
		return
	}
	if i := bytes.IndexByte(t.text[n-1:], '\n'); i >= 0 {
		n += i
	}
	t.trim(n)
}
