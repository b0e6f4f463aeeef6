package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/muxd/muxd/control"
	"github.com/muxd/muxd/control/controlpb"
)

func (a *app) logsCmd() *cobra.Command {
	var follow, times, raw, showCursor bool
	var tail int
	var since, until, stream, cursor string
	c := &cobra.Command{
		Use: "logs ID", Short: "Read back what a child's sink has kept", Args: args(cobra.ExactArgs(1)), ValidArgsFunction: a.completeThen(),
		Long: `logs reads back what a sink of the child has kept, also from files that were rotated and compressed. With -f it goes on until
the child has ended. A cursor, which --show-cursor and -o json print, goes on behind a line, without a gap and without a
repetition. With -o json a line has "text", or "base64" where it is no UTF-8. On a terminal, control characters that could take it
over are shown and not sent, unless --raw.`,
		RunE: func(c *cobra.Command, argv []string) error {
			o := control.LogOptions{Follow: follow, Tail: tail, Stream: stream, Cursor: cursor}
			if cursor != "" && tail >= 0 {
				return usageError("--cursor with --tail: a cursor says where to begin")
			}
			if tail < 0 && c.Flags().Changed("tail") {
				return usageError("--tail %d: want 0 or more; without it the whole log is read", tail)
			}
			var err error
			if o.Since, err = parseTime("since", since, time.Now()); err != nil {
				return err
			}
			if o.Until, err = parseTime("until", until, time.Now()); err != nil {
				return err
			}
			m, err := a.muxd()
			if err != nil {
				return err
			}
			r, err := m.Logs(c.Context(), argv[0], o)
			if err != nil {
				return err
			}
			defer r.Close()
			return a.printLog(r, times, !raw && isTerminal(1), showCursor)
		},
	}
	fl := c.Flags()
	fl.BoolVarP(&follow, "follow", "f", false, "go on until the child has ended")
	fl.IntVar(&tail, "tail", -1, "only the last `N` lines")
	fl.Lookup("tail").DefValue = "0" // for cobra: without it there is no number to tell
	fl.StringVar(&since, "since", "", "only what came after `TIME`: a duration before now, as 10m, or a time as 2006-01-02T15:04:05")
	fl.StringVar(&until, "until", "", "only what came before `TIME`")
	fl.StringVar(&cursor, "cursor", "", "only what came behind the line with this `CURSOR`")
	fl.BoolVar(&showCursor, "show-cursor", false, "print the cursor of the last line, after it")
	fl.StringVar(&stream, "stream", "", "only this `STREAM`: stdout, stderr or console")
	fl.BoolVarP(&times, "timestamps", "t", false, "show when each line was read")
	fl.BoolVar(&raw, "raw", false, "pass control characters on to the terminal")
	c.RegisterFlagCompletionFunc("stream", cobra.FixedCompletions([]string{"stdout", "stderr", "console"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func (a *app) rotateCmd() *cobra.Command {
	return &cobra.Command{
		Use: "rotate ID", Short: "Have a child's sinks begin new log files", Args: args(cobra.ExactArgs(1)), ValidArgsFunction: a.completeThen(),
		Long: `rotate has every sink of a running child that writes a log file begin a new one; the old one gets the time behind its name,
and is kept, compressed or deleted as the sink's options say. An empty file stays.`,
		RunE: func(c *cobra.Command, argv []string) error {
			m, err := a.muxd()
			if err != nil {
				return err
			}
			_, err = m.API.Rotate(c.Context(), &controlpb.RotateRequest{Child: argv[0]})
			return m.Plain(err)
		},
	}
}

// parseTime reads a duration before now, or a time; zero where there is none.
func parseTime(flag, s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usageError("--%s %s: want a duration, as 10m, or a time, as 2006-01-02T15:04:05", flag, s)
}

// printLog prints records until the log ends.
func (a *app) printLog(r *control.LogReader, times, guard, showCursor bool) (err error) {
	out := bufio.NewWriterSize(os.Stdout, 64<<10) // written when no more is there: a lone line at once
	r.OnWait(func() { out.Flush() })              // an error comes again
	defer func() {
		if flushErr := out.Flush(); err == nil {
			err = flushErr
		}
	}()
	objects := json.NewEncoder(out)
	objects.SetEscapeHTML(false)
	cursor := ""
	for begin := true; ; {
		rec, err := r.Next()
		switch {
		case errors.Is(err, io.EOF):
			if !begin {
				fmt.Fprintln(out)
			}
			if showCursor && cursor != "" && a.output != "json" {
				fmt.Fprintln(out, "-- cursor: "+cursor)
			}
			return nil
		case err != nil:
			return fmt.Errorf("read the log: %w", err)
		}
		if rec.Cursor != "" {
			cursor = rec.Cursor
		}
		if a.output == "json" {
			v := map[string]any{"stream": rec.Stream, "partial": rec.Partial, "cursor": rec.Cursor}
			if utf8.Valid(rec.Text) {
				v["text"] = string(rec.Text)
			} else {
				v["base64"] = rec.Text
			}
			if !rec.Time.IsZero() {
				v["time"] = rec.Time.Format(time.RFC3339Nano)
			}
			if err := objects.Encode(v); err != nil {
				return err
			}
			continue
		}
		var line []byte
		if times && begin && !rec.Time.IsZero() {
			line = append(rec.Time.AppendFormat(line, "2006-01-02T15:04:05.000000Z07:00"), ' ')
		}
		if guard {
			line = append(line, harmless(rec.Text)...)
		} else {
			line = append(line, rec.Text...)
		}
		if begin = !rec.Partial; begin {
			line = append(line, '\n')
		}
		if _, err := out.Write(line); err != nil {
			return err
		}
	}
}

// harmless writes control characters but tab in caret notation, as cat -v does, and bytes that are no UTF-8 as \xNN.
func harmless(text []byte) string {
	var b strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, text[0])
		case r == '\t':
			b.WriteByte('\t')
		case r < ' ' || r == 0x7f:
			b.WriteByte('^')
			b.WriteRune(r ^ 0x40)
		case r >= 0x80 && r < 0xa0: // C1 controls
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			b.Write(text[:n])
		}
		text = text[n:]
	}
	return b.String()
}

func (a *app) eventsCmd() *cobra.Command {
	var follow bool
	var after uint64
	c := &cobra.Command{
		Use: "events [ID]", Short: "Tell what has happened, with -f also what happens", Args: args(cobra.MaximumNArgs(1)), ValidArgsFunction: a.completeThen(),
		RunE: func(c *cobra.Command, argv []string) error {
			m, err := a.muxd()
			if err != nil {
				return err
			}
			req := &controlpb.EventsRequest{Follow: follow, After: after}
			if len(argv) > 0 {
				req.Child = argv[0]
			}
			return m.Events(c.Context(), req, func(ev *controlpb.Event) error {
				if a.output == "json" {
					return printJSONLine(map[string]any{
						"seq": ev.Seq, "time": timeOf(ev.Time), "kind": ev.Kind, "child": ev.Child, "name": ev.Name,
						"stream": ev.Stream, "text": ev.Text,
					})
				}
				what := ev.Kind
				if ev.Stream != "" {
					what = ev.Stream + " " + ev.Kind
				}
				_, err := fmt.Printf("%s  %-12s %-18s %s\n", time.Unix(0, ev.Time).Format("15:04:05.000000"), ev.Name, what, ev.Text)
				return err
			})
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what happens")
	c.Flags().Uint64Var(&after, "after", 0, "only events behind the one with number `SEQ`, which -o json shows")
	return c
}
