package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// castReader reads a recording: an asciicast file of version 2 or 3.
type castReader struct {
	r       *bufio.Reader
	n       int // of the line that was read last
	version int
	idle    time.Duration // the idle limit that the recording asks for; 0: none
	at      time.Duration // of the last event
}

// castEvent is an event, with its time from the beginning, whatever the version.
type castEvent struct {
	At   time.Duration
	Kind string // o, i, r, m, x
	Data string
}

// newCastReader reads the header.
func newCastReader(r io.Reader) (*castReader, error) {
	c := &castReader{r: bufio.NewReader(r)}
	line, err := c.line()
	if err != nil {
		return nil, fmt.Errorf("not an asciicast: %w", err)
	}
	var h struct {
		Version       int     `json:"version"`
		IdleTimeLimit float64 `json:"idle_time_limit"`
	}
	if err := json.Unmarshal(line, &h); err != nil {
		return nil, errors.New("not an asciicast: its first line is no JSON object")
	}
	if h.Version != 2 && h.Version != 3 {
		return nil, fmt.Errorf("asciicast of version %d: only 2 and 3 can be replayed", h.Version)
	}
	c.version, c.idle = h.Version, seconds(h.IdleTimeLimit)
	return c, nil
}

func seconds(f float64) time.Duration { return time.Duration(f * float64(time.Second)) }

// next returns the next event; io.EOF at the end. An unfinished last line, of a recording that goes on, is the end too.
func (c *castReader) next() (castEvent, error) {
	for {
		line, err := c.line()
		if err != nil {
			return castEvent{}, err
		}
		if len(line) <= 1 || line[0] == '#' { // empty, or a comment (version 3)
			continue
		}
		var at float64
		e := castEvent{}
		parts := []any{&at, &e.Kind, &e.Data}
		if err := json.Unmarshal(line, &parts); err != nil || len(parts) != 3 || at < 0 {
			return e, fmt.Errorf("line %d is no event: %.60q", c.n, line)
		}
		if e.At = seconds(at); c.version == 3 {
			e.At += c.at
		}
		c.at = e.At
		return e, nil
	}
}

func (c *castReader) line() ([]byte, error) {
	c.n++
	line, err := c.r.ReadBytes('\n')
	if err == io.EOF && c.n == 1 && len(line) > 0 {
		return line, nil // a header and nothing else
	}
	return line, err
}
