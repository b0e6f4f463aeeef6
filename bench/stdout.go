package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

const (
	speed   = "MB/s"
	cpuCost = "CPU s/GB" // of whoever reads, not of the child
)

// waitingLoop is what the kernel can do for a child that writes little at a time.
const waitingLoop = "read-write loop, 1 ms wait"

// boundByChild says, by shape, why no sink can be faster than some peers by much.
var boundByChild = map[string]string{
	"lines": "the child takes most of the time for its own writes, so that the limit, which puts nothing before the lines, is what can be reached",
}

// flow is a child's output on its way into files.
type flow struct {
	*bench
	shape  shape
	blocks int64
	dir    string
}

// newFlow prepares a run: a fresh directory, on tmpfs as a rule.
func (b *bench) newFlow(s shape) (*flow, error) {
	dir, err := os.MkdirTemp(b.dir, "flow")
	if err != nil {
		return nil, err
	}
	bytes := b.bytes
	if s.write < 4<<10 { // which takes ten times as long
		bytes /= 2
	}
	return &flow{bench: b, shape: s, blocks: s.blocks(bytes), dir: dir}, nil
}

func (f *flow) close()                  { os.RemoveAll(f.dir) }
func (f *flow) path(name string) string { return filepath.Join(f.dir, name) }

// writer is the child's command line.
func (f *flow) writer() []string {
	return []string{f.self, "write", f.shape.name, strconv.FormatInt(f.blocks, 10), f.path("span")}
}

// measured turns what a run took into values. The clock runs from the child's first write to end.
func (f *flow) measured(end int64, cpu time.Duration) (values, error) {
	at, err := readSpan(f.path("span"))
	if err != nil {
		return nil, fmt.Errorf("the child did not write to its end: %w", err)
	}
	n := float64(f.blocks) * float64(f.shape.size())
	return values{speed: n / 1e6 / (float64(end-at.Begin) / 1e9), cpuCost: cpu.Seconds() / (n / 1e9)}, nil
}

// piped has reader read the child's output from a pipe. An empty reader: the child writes into the file out itself.
func (f *flow) piped(ctx context.Context, out string, reader ...string) (values, error) {
	child := exec.CommandContext(ctx, f.writer()[0], f.writer()[1:]...)
	child.Stderr = os.Stderr
	if len(reader) == 0 {
		file, err := os.OpenFile(f.path(out), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		child.Stdout = file
		err = child.Run()
		end := monotonic()
		if err != nil {
			return nil, err
		}
		return f.measured(end, 0)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.CommandContext(ctx, reader[0], reader[1:]...)
	cmd.Stdin, cmd.Stderr, cmd.Dir = r, os.Stderr, f.dir
	if out != "" {
		file, err := os.OpenFile(f.path(out), os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			w.Close()
			return nil, err
		}
		defer file.Close()
		cmd.Stdout = file
	}
	child.Stdout = w
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, err
	}
	err = child.Start()
	w.Close()
	if err != nil {
		return nil, errors.Join(err, cmd.Wait())
	}
	r.Close()
	childErr := child.Wait()
	cpu, err := waitFor(cmd.Process.Pid)
	end := monotonic()
	cmd.Process.Release()
	if err := errors.Join(childErr, err); err != nil {
		return nil, err
	}
	return f.measured(end, cpu)
}

// muxed has muxd's sinks take the child's output.
func (f *flow) muxed(ctx context.Context, specs ...string) (values, error) {
	var end int64
	cpu, err := f.muxd.work(ctx, func() error {
		id, err := f.muxd.spawn(ctx, sinks{"stdin": {"null"}, "stdout": specs, "stderr": {"null"}}, f.writer()...)
		if err != nil {
			return err
		}
		_, err = f.muxd.wait(ctx, id)
		end = monotonic()
		return err
	})
	if err != nil {
		return nil, err
	}
	return f.measured(end, cpu)
}

// same compares a file with what the child wrote, after unwrap has taken its records apart.
func (f *flow) same(name string, unwrap func(io.Reader) io.Reader) error {
	file, err := os.Open(f.path(name))
	if err != nil {
		return err
	}
	defer file.Close()
	if err := f.shape.expect(unwrap(bufio.NewReaderSize(file, big)), f.blocks); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// join makes one file of those of an s6-log directory.
func (f *flow) join(dir, name string) error {
	parts, err := filepath.Glob(filepath.Join(f.path(dir), "@*")) // rotated, and in their order by name
	if err != nil {
		return err
	}
	out, err := os.Create(f.path(name))
	if err != nil {
		return err
	}
	defer out.Close()
	for _, part := range append(parts, filepath.Join(f.path(dir), "current")) {
		in, err := os.Open(part)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		in.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// intoFile makes a contender that leaves the child's output in the file "out".
func (b *bench) intoFile(name string, r role, s shape, unwrap func(io.Reader) io.Reader,
	run func(ctx context.Context, f *flow) (values, error)) contender {
	return contender{name: name, role: r, run: func(ctx context.Context) (values, error) {
		f, err := b.newFlow(s)
		if err != nil {
			return nil, err
		}
		defer f.close()
		v, err := run(ctx, f)
		if err != nil {
			return nil, err
		}
		return v, f.same("out", unwrap)
	}}
}

// muxdFile is a contender: muxd's file sink, with options.
func (b *bench) muxdFile(s shape, options string, unwrap func(io.Reader) io.Reader) contender {
	return b.intoFile("muxd", subject, s, unwrap, func(ctx context.Context, f *flow) (values, error) {
		return f.muxed(ctx, "file:"+f.path("out")+","+options)
	})
}

// fileTrials are about one stream that goes into one file.
func (b *bench) fileTrials() []*trial {
	var all []*trial
	for _, s := range shapes {
		loop := func(name, wait string) contender {
			return b.intoFile(name, limit, s, plain, func(ctx context.Context, f *flow) (values, error) {
				return f.piped(ctx, "", f.self, "limit", "copy", wait, f.path("out"))
			})
		}
		cat := b.intoFile("cat", peer, s, plain, func(ctx context.Context, f *flow) (values, error) {
			return f.piped(ctx, "out", "cat")
		})
		raw := &trial{name: "file raw, " + s.name, contenders: []contender{
			b.muxdFile(s, "format=raw", plain), cat, loop("read-write loop", "0"), loop(waitingLoop, "1ms"),
		}}
		if s.name == "lines" {
			raw.lines = []line{
				{metric: speed, against: "cat", target: 1, unmet: boundByChild[s.name]},
				{metric: cpuCost, against: "cat", target: 0.3, atMost: true},
			}
		} else {
			raw.lines = []line{
				{metric: speed, against: "read-write loop", target: 0.95},
				{metric: cpuCost, against: "read-write loop", target: 1.1, atMost: true,
					note: "the loop has no crash guarantee: staging may cost a tenth"},
			}
		}
		direct := &trial{name: "file direct, " + s.name, contenders: []contender{
			b.muxdFile(s, "mode=direct", plain),
			b.intoFile("redirection", limit, s, plain, func(ctx context.Context, f *flow) (values, error) {
				return f.piped(ctx, "out")
			}),
		}, lines: []line{{metric: speed, against: "redirection", target: 0.95}}}

		atLeast := 2.0
		if s.name == "lines" {
			atLeast = 1.1
		}
		cri := &trial{name: "file cri, " + s.name, contenders: []contender{
			b.muxdFile(s, "format=cri", fromCRI),
			b.intoFile("conmon", peer, s, fromCRI, func(ctx context.Context, f *flow) (values, error) { return f.conmon(ctx) }),
			loop(waitingLoop, "1ms"),
		}, lines: []line{
			{metric: speed, against: "conmon", target: atLeast, unmet: boundByChild[s.name]},
			{metric: cpuCost, against: "conmon", target: 0.5, atMost: true},
		}}
		all = append(all, raw, direct, cri)
		if s.name == "bulk" {
			s = stampedBulk
		}
		for _, st := range []struct {
			format, flag string
			unwrap       func(io.Reader) io.Reader
		}{{"tai64n", "t", fromTAI64N}, {"iso", "T", fromISO}} {
			all = append(all, &trial{name: "file " + st.format + ", " + s.name, contenders: []contender{
				b.muxdFile(s, "format="+st.format, st.unwrap),
				b.intoFile("s6-log "+st.flag, peer, s, st.unwrap, func(ctx context.Context, f *flow) (values, error) {
					v, err := f.piped(ctx, "", "s6-log", "-b", st.flag, "n100", "s268435455", f.path("log")) // more it does not take
					if err != nil {
						return nil, err
					}
					return v, f.join("log", "out")
				}),
				loop(waitingLoop, "1ms"),
			}, lines: []line{{metric: speed, against: "s6-log " + st.flag, target: 4, unmet: boundByChild[s.name]}}})
			if st.format == "tai64n" && s.name == "lines" { // svlogd takes longer than all others together
				last := all[len(all)-1]
				last.contenders = append(last.contenders, b.intoFile("svlogd -t", peer, s, st.unwrap, func(ctx context.Context, f *flow) (values, error) {
					if err := os.Mkdir(f.path("log"), 0o700); err != nil {
						return nil, err
					}
					if err := os.WriteFile(f.path("log/config"), []byte("s0\n"), 0o600); err != nil { // one file
						return nil, err
					}
					v, err := f.piped(ctx, "", "svlogd", "-t", "-b", "65536", f.path("log"))
					if err != nil {
						return nil, err
					}
					return v, os.Rename(f.path("log/current"), f.path("out"))
				}))
			}
		}
	}
	return all
}
