package e2e

import (
	"bytes"
	"context"
	"os"
	"time"

	"github.com/muxd/muxd/sink"
)

// poisonEnv makes this binary a sink plugin that crashes over some chunks, until the file that it names exists.
const poisonEnv = "MUXD_E2E_POISON"

// poisonPlugin is the sink poison:PATH. It appends what it gets to PATH, and exits over what has "poison" in it.
func poisonPlugin(antidote string) sink.Plugin {
	return sink.Plugin{
		Name: "poison", Version: "1", Help: "crashes over poison",
		Carries: []sink.Stream{sink.Stdout, sink.Stderr},
		Arg:     &sink.Option{Name: "path", Type: sink.Path, Required: true, Help: "where the output goes"},
		Open: func(_ context.Context, o *sink.Opening) (sink.Sink, error) {
			f, err := os.OpenFile(o.Arg, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
			return &poisonSink{file: f, antidote: antidote}, err
		},
	}
}

type poisonSink struct {
	file     *os.File
	antidote string
}

func (p *poisonSink) Write(ctx context.Context, c *sink.Chunk) error {
	switch _, err := os.Stat(p.antidote); {
	case bytes.Contains(c.Data, []byte("poison")) && err != nil:
		os.Exit(3)
	case bytes.Contains(c.Data, []byte("blocks")):
		for err != nil { // waits for the antidote too, and harms nobody
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(interval):
			}
			_, err = os.Stat(p.antidote)
		}
	}
	// The chunks of this test are put out as a whole or not at all: the process ends before.
	_, err := p.file.Write(c.Data)
	return err
}

func (p *poisonSink) Close() error { return p.file.Close() }
