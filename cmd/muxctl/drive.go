package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/control"
)

func (a *app) sendCmd() *cobra.Command {
	var keys []string
	var id string
	var paste bool
	var timeout time.Duration
	c := &cobra.Command{
		Use: "send ID [TEXT]", Short: "Type into a child's console", Args: args(cobra.RangeArgs(1, 2)), ValidArgsFunction: a.completeThen(),
		Long: `send types TEXT, as it is, and then the keys, and returns when the terminal has them. It prints a cursor: where the output of
the console stood before. What read and expect tell with --since CURSOR came after it.

A key is one character, or Enter, Escape, Tab, Space, BSpace, Up, Down, Left, Right, Home, End, PageUp, PageDown, IC, DC, F1 to F12, or
KP0 to KP9, KP+, KP-, KP*, KP/, KP. and KPEnter, with C- (control), M- (meta) and S- (shift) before it, as in C-c, M-x, S-Tab, C-Left.
Cursor keys and the keypad send what the program has asked its terminal for, and what is pasted is in brackets where it wants that.

With --id a send that is made again, after one of which nobody knows what became, types only what was not typed yet.`,
		Example: `  muxctl send shell 'ls -l' --key Enter
  muxctl send editor --key Escape --key : --key w --key q --key Enter
  muxctl send editor --paste < text`,
		RunE: func(c *cobra.Command, argv []string) error {
			what, err := toType(argv[1:], keys, paste)
			if err != nil {
				return err
			}
			m, err := a.muxd()
			if err != nil {
				return err
			}
			ctx, cancel := within(c.Context(), timeout)
			defer cancel()
			s, err := m.SendOnce(ctx, argv[0], id, what...)
			for _, text := range s.Notices {
				fmt.Fprintln(os.Stderr, "muxctl:", text)
			}
			if err != nil {
				return fmt.Errorf("send to %s: %w", argv[0], err)
			}
			if a.output == "json" {
				return printJSON(map[string]any{"cursor": s.Cursor.String(), "notices": append([]string{}, s.Notices...)})
			}
			fmt.Println(s.Cursor)
			return nil
		},
	}
	fl := c.Flags()
	fl.StringArrayVarP(&keys, "key", "k", nil, "a `KEY` to type, after TEXT; several in their order")
	fl.BoolVar(&paste, "paste", false, "give TEXT, or without one what comes on stdin, as a terminal gives what is pasted")
	fl.StringVar(&id, "id", "", "a name of the program's own, for this send and when it is made again, at most 32 bytes")
	fl.DurationVar(&timeout, "timeout", 0, "how long the child may take nothing; 0: for ever")
	return c
}

// toType is what send is to type.
func toType(text, keys []string, paste bool) (what []control.Typed, err error) {
	switch {
	case paste && len(text) == 0:
		b, err := io.ReadAll(os.Stdin)
		if err != nil {
			return nil, fmt.Errorf("send: stdin: %w", err)
		}
		what = append(what, control.Paste(b))
	case paste:
		what = append(what, control.Paste(text[0]))
	case len(text) > 0:
		what = append(what, control.Text(text[0]))
	}
	for _, k := range keys {
		if err := control.Key(k).Check(); err != nil {
			return nil, usageError("send: %w", err)
		}
		what = append(what, control.Key(k))
	}
	if len(what) == 0 {
		return nil, usageError("send: there is nothing to type; give TEXT, --key or --paste")
	}
	return what, nil
}

// errTimeout says that what --timeout allows is over.
var errTimeout = errors.New("it took longer than --timeout allows")

// within is ctx with a time limit; 0 is none.
func within(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if limit == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, limit, errTimeout)
}

func (a *app) readCmd() *cobra.Command {
	var since string
	var text bool
	c := &cobra.Command{
		Use: "read ID", Short: "Print what a child's console has put out", Args: args(cobra.ExactArgs(1)), ValidArgsFunction: a.completeThen(),
		Long: `read prints the output of a console since a cursor, as far as it is still kept (scrollback of the sink pty), as the
bytes that it is, and on stderr the cursor behind it. It does not wait, and never ends inside of a character or a control sequence.`,
		Example: `  c=$(muxctl send shell 'make' --key Enter)
  muxctl read shell --since "$c"`,
		RunE: func(c *cobra.Command, argv []string) error {
			from, err := cursor(since)
			if err != nil {
				return err
			}
			m, err := a.muxd()
			if err != nil {
				return err
			}
			r, err := m.Read(c.Context(), argv[0], from)
			if err != nil {
				return fmt.Errorf("read %s: %w", argv[0], err)
			}
			out := string(r.Data)
			if text {
				out = r.Text()
			}
			if a.output == "json" {
				return printJSON(map[string]any{"output": out, "cursor": r.Cursor.String(), "lost": r.Lost})
			}
			if _, err := os.Stdout.WriteString(out); err != nil {
				return err
			}
			if r.Lost > 0 {
				fmt.Fprintf(os.Stderr, "muxctl: %d bytes before that are not kept any more\n", r.Lost)
			}
			fmt.Fprintln(os.Stderr, "cursor", r.Cursor)
			return nil
		},
	}
	c.Flags().StringVar(&since, "since", "", sinceHelp)
	c.Flags().BoolVar(&text, "text", false, "as text: without control sequences, with plain newlines")
	return c
}

const sinceHelp = "only what came after `CURSOR`, as send, read and expect print it; default: the beginning, or what is kept of it"

// cursor reads --since.
func cursor(s string) (control.Cursor, error) {
	if s == "" {
		return control.Cursor{}, nil
	}
	c, err := control.ParseCursor(s)
	if err != nil {
		return c, usageError("--since: %w", err)
	}
	return c, nil
}

func (a *app) expectCmd() *cobra.Command {
	var since string
	var timeout time.Duration
	var e control.Expectation
	c := &cobra.Command{
		Use: "expect ID [REGEX]", Short: "Wait until a child's console has put something out", Args: args(cobra.RangeArgs(1, 2)),
		ValidArgsFunction: a.completeThen(),
		Long: `expect waits until REGEX (Go's syntax, with ^ and $ also at the ends of lines) matches the output since a cursor, as text: without
control sequences, and with plain newlines. $ also matches at the end of what has come so far, so 'password: $' is a prompt that waits. It
prints the cursor behind the match. With --idle or --exit it also, or without REGEX only, waits for these.

It exits with 0 when it has come, and with 1 after --timeout, or when the console ends without it.`,
		Example: `  c=$(muxctl send shell 'make' --key Enter)
  muxctl expect shell 'Error|^done$' --since "$c" --timeout 10m`,
		RunE: func(c *cobra.Command, argv []string) error {
			from, err := cursor(since)
			if err != nil {
				return err
			}
			if len(argv) > 1 {
				if _, err := regexp.Compile(argv[1]); err != nil {
					return usageError("expect: %w", err)
				}
				e.Pattern = regexp.MustCompile("(?m:" + argv[1] + ")")
			}
			if e.Pattern == nil && e.Idle == 0 && !e.Exit {
				return usageError("expect: there is nothing to wait for; give REGEX, --idle or --exit")
			}
			m, err := a.muxd()
			if err != nil {
				return err
			}
			ctx, cancel := within(c.Context(), timeout)
			defer cancel()
			f, err := m.Expect(ctx, argv[0], from, e)
			if err != nil {
				return unexpected(argv, timeout, f, err)
			}
			return a.printFound(f)
		},
	}
	fl := c.Flags()
	fl.StringVar(&since, "since", "", sinceHelp)
	fl.DurationVar(&timeout, "timeout", 10*time.Second, "how long to wait; 0: for ever")
	fl.DurationVar(&e.Idle, "idle", 0, "until nothing has come for so long")
	fl.BoolVar(&e.Exit, "exit", false, "until the console has ended")
	return c
}

// unexpected is the error of an expect whose expectation did not come true, with the last that there was.
func unexpected(argv []string, timeout time.Duration, f control.Found, err error) error {
	if errors.Is(err, errTimeout) {
		err = fmt.Errorf("it did not come within %v", timeout)
	}
	err = fmt.Errorf("expect %s: %w", strings.Join(argv, " "), err)
	if f.Lost > 0 {
		err = fmt.Errorf("%w; %d bytes of output were not kept, and not looked at", err, f.Lost)
	}
	if last := lastLines(f.Before, 5); last != "" {
		err = fmt.Errorf("%w; the last output is:\n%s", err, last)
	}
	return err
}

// lastLines are the last n lines of s, without blank ones at the end.
func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, " \r\n\t"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// foundView is what expect -o json prints. Its fields' names are stable.
type foundView struct {
	Why      control.Why `json:"why"` // match, idle, exit
	Cursor   string      `json:"cursor"`
	Before   string      `json:"before"`
	Match    string      `json:"match"`
	Groups   []string    `json:"groups"`
	Lost     uint64      `json:"lost"`
	ExitCode *int        `json:"exit_code,omitempty"`
	Signal   string      `json:"signal,omitempty"`
}

func (a *app) printFound(f control.Found) error {
	if a.output != "json" {
		fmt.Println(f.Cursor)
		return nil
	}
	v := foundView{
		Why: f.Why, Cursor: f.Cursor.String(), Before: f.Before, Match: f.Match, Groups: append([]string{}, f.Groups...), Lost: f.Lost,
	}
	if ws := syscall.WaitStatus(f.Status); f.HasStatus && ws.Signaled() {
		v.Signal = unix.SignalName(ws.Signal())
	} else if f.HasStatus {
		code := ws.ExitStatus()
		v.ExitCode = &code
	}
	return printJSON(v)
}
