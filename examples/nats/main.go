// Command muxd-sink-nats is a sink plugin of muxd that publishes output to NATS JetStream, a line a message, and reads it
// back: nats:PREFIX.
package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/muxd/muxd/sink"
)

func main() {
	servers := &servers{}
	sink.Serve(sink.Plugin{
		Name: "nats", Version: "0.1.0", Help: "publishes output to NATS JetStream, a line a message, and reads it back",
		Carries: []sink.Stream{sink.Stdout, sink.Stderr},
		Arg:     &sink.Option{Name: "prefix", Type: sink.String, Help: "of the subjects, which are PREFIX.ID.stdout and PREFIX.ID.stderr; muxd by default"},
		Options: []sink.Option{
			{Name: "url", Type: sink.String, Default: nats.DefaultURL, Help: "of the server"},
			{Name: "creds", Type: sink.Path, Help: "a file with the user's credentials"},
			{Name: "stream", Type: sink.String, Default: "MUXD", Help: "the JetStream stream; one that does not exist is made"},
			{Name: "window", Type: sink.Duration, Default: "10m", Help: "how long a stream that is made knows a line again that comes twice"},
			{Name: "max-line", Type: sink.Size, Default: "16KiB", Help: "a longer line becomes several messages; at most 24KiB"},
		},
		Metrics: []sink.Metric{
			{Name: "acknowledged", Help: "messages that JetStream has"},
			{Name: "known", Help: "of those, what it had already when they came, and dropped"},
		},
		Check: check,
		Open: func(ctx context.Context, o *sink.Opening) (sink.Sink, error) {
			s := settingsOf(&o.Request)
			js, err := servers.connect(s, o.Again)
			if err == nil && !o.Again {
				err = s.makeStream(ctx, js)
			}
			if err != nil {
				return nil, err
			}
			return newPublisher(js, s, o), nil
		},
		Logs: func(ctx context.Context, q *sink.LogQuery, emit func(sink.Record) error) error {
			s := settingsOf(&q.Request)
			js, err := servers.connect(s, false)
			if err != nil {
				return err
			}
			return readLog(ctx, js, s, q, emit)
		},
	})
}

// settings are a spec's.
type settings struct {
	prefix, url, creds, stream string
	window                     time.Duration
	maxLine                    int
}

func settingsOf(r *sink.Request) settings {
	s := settings{
		prefix: r.Arg, url: r.Options.String("url"), creds: r.Options.String("creds"), stream: r.Options.String("stream"),
		window: r.Options.Duration("window"), maxLine: int(r.Options.Int("max-line")),
	}
	if s.prefix == "" {
		s.prefix = "muxd"
	}
	r.Location = s.url + "/" + s.stream + "/" + s.subject(r.Child, "*")
	return s
}

// subject is that of a child's stream.
func (s settings) subject(c sink.Child, stream string) string {
	return s.prefix + "." + c.ID + "." + stream
}

func check(r *sink.Request) (sink.Wiring, error) {
	s := settingsOf(r)
	switch {
	case s.maxLine < 1 || s.maxLine > sink.StateMost:
		return 0, fmt.Errorf("max-line is %d bytes; want 1 to %d", s.maxLine, sink.StateMost)
	case strings.ContainsAny(s.prefix, " \t*>") || strings.Trim(s.prefix, ".") != s.prefix || strings.Contains(s.prefix, ".."):
		return 0, fmt.Errorf("%q is no prefix of a subject: want words with dots between, without * and >", s.prefix)
	case s.stream == "" || strings.ContainsAny(s.stream, " \t*>./\\"):
		return 0, fmt.Errorf("stream=%s: want a word without blanks, dots, slashes, * and >", s.stream)
	}
	r.Exact = true
	return sink.Pipe, nil
}

// makeStream makes the JetStream stream where it does not exist. One that does must take the subjects.
func (s settings) makeStream(ctx context.Context, js jetstream.JetStream) error {
	_, err := js.Stream(ctx, s.stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		_, err = js.CreateStream(ctx, jetstream.StreamConfig{
			Name: s.stream, Subjects: []string{s.prefix + ".>"}, Duplicates: s.window,
		})
	}
	if err != nil {
		return fmt.Errorf("stream %s at %s: %w", s.stream, s.url, err)
	}
	return nil
}
