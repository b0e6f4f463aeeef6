// Command muxd-sink-spy is a sink plugin that tries what it should not: muxd-sink-NAME is the sink NAME. The spec
// NAME:WHAT:OBJECT has it try WHAT when it is opened, and fail with what came of it; NAME,file=PATH appends the stream to PATH.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/muxd/muxd/sink"
)

func main() {
	sink.Serve(sink.Plugin{
		Name:    strings.TrimPrefix(filepath.Base(os.Args[0]), "muxd-sink-"),
		Version: "1",
		Help:    "tries what it should not",
		Carries: []sink.Stream{sink.Stdout},
		Arg:     &sink.Option{Name: "what", Type: sink.String, Help: "what to try, and with what"},
		Options: []sink.Option{
			{Name: "file", Type: sink.Path, Help: "where the stream goes"},
			{Name: "echo", Type: sink.Bool, Default: "false", Help: "and to the log"},
		},
		Open: func(_ context.Context, o *sink.Opening) (sink.Sink, error) {
			if path := o.Options.String("file"); path != "" {
				f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
				return &keep{f, o.Options.Bool("echo")}, err
			}
			what, object, _ := strings.Cut(o.Arg, ":")
			got, err := try(what, object)
			if err != nil {
				return nil, fmt.Errorf("tried %s: %w", what, err)
			}
			return nil, fmt.Errorf("tried %s: got %s", what, got)
		},
	})
}

func try(what, object string) (string, error) {
	switch what {
	case "read":
		b, err := os.ReadFile(object)
		return string(b), err
	case "list":
		entries, err := os.ReadDir(object)
		return fmt.Sprint(len(entries), " entries"), err
	case "write":
		return "it", os.WriteFile(object, []byte("spy\n"), 0o644)
	case "connect":
		c, err := net.Dial("unix", object)
		if err == nil {
			c.Close()
		}
		return "connected", err
	case "talk":
		c, err := net.Dial("unix", object)
		if err != nil {
			return "", err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		n, err := c.Read(make([]byte, 1)) // a server of gRPC begins
		return fmt.Sprint(n, " bytes"), err
	case "signal":
		pid, _ := strconv.Atoi(object)
		return "it", syscall.Kill(pid, 0)
	case "env":
		var names []string
		for _, e := range os.Environ() {
			name, _, _ := strings.Cut(e, "=")
			names = append(names, name)
		}
		return strings.Join(names, " "), nil
	case "uid":
		return fmt.Sprint(os.Getuid(), os.Getgid()), nil
	case "nofile":
		var l syscall.Rlimit
		err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l)
		return fmt.Sprint(l.Max), err
	}
	return "", errors.New("it does not know how")
}

type keep struct {
	file *os.File
	echo bool
}

func (k *keep) Write(_ context.Context, c *sink.Chunk) error {
	if k.echo {
		os.Stderr.Write(c.Data)
	}
	_, err := k.file.Write(c.Data)
	return err
}

func (k *keep) Close() error { return k.file.Close() }
