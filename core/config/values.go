package config

import (
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/nearest"
)

// Size is a console's window in character cells, at least 1 by 1.
type Size struct{ Rows, Cols int }

func (s Size) String() string { return fmt.Sprintf("%dx%d", s.Rows, s.Cols) }

// ParseSize reads ROWSxCOLS. The most is 65535: struct winsize has unsigned shorts (ioctl_tty(2)).
func ParseSize(text string) (Size, error) {
	bad := fmt.Errorf(`%q is not rows and columns, as "24x80", each from 1 to 65535`, text)
	rows, cols, ok := strings.Cut(text, "x")
	if !ok {
		return Size{}, bad
	}
	r, rerr := strconv.ParseUint(rows, 10, 16)
	c, cerr := strconv.ParseUint(cols, 10, 16)
	if rerr != nil || cerr != nil || r == 0 || c == 0 {
		return Size{}, bad
	}
	return Size{int(r), int(c)}, nil
}

// fromString sets dst to what parse makes of v.
func fromString[T any](v any, want string, dst *T, parse func(string) (T, error)) error {
	s, ok := v.(string)
	if !ok {
		return fmt.Errorf("want %s, not %s", want, kindOf(v))
	}
	x, err := parse(s)
	if err != nil {
		if strings.HasPrefix(err.Error(), "time:") {
			return fmt.Errorf("%q is not %s", s, want)
		}
		return err
	}
	*dst = x
	return nil
}

var levels = map[string]slog.Level{
	"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
}

func parseLevel(s string) (slog.Level, error) {
	if l, ok := levels[s]; ok {
		return l, nil
	}
	return 0, oneOf(s, "debug", "info", "warn", "error")
}

// oneOf says that s is none of values.
func oneOf(s string, values ...string) error {
	return fmt.Errorf("%q is not one of %s%s", s, strings.Join(values, ", "), nearest.Hint(s, values))
}

func parseUmask(s string) (*uint32, error) {
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n > 0o777 {
		return nil, fmt.Errorf(`%q is not a umask: want an octal number from "0000" to "0777"`, s)
	}
	mask := uint32(n)
	return &mask, nil
}

// Unlimited is the value of an Rlimit without a limit (RLIM_INFINITY).
const Unlimited = math.MaxUint64

// Rlimit is a resource limit (setrlimit(2)).
type Rlimit struct{ Soft, Hard uint64 }

var resources = map[string]int{
	"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA,
	"fsize": unix.RLIMIT_FSIZE, "locks": unix.RLIMIT_LOCKS, "memlock": unix.RLIMIT_MEMLOCK,
	"msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE, "nofile": unix.RLIMIT_NOFILE,
	"nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO,
	"rttime": unix.RLIMIT_RTTIME, "sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
}

// Resource is the RLIMIT_* of a limit's name, which is the constant's in lower case: nofile, core, …
func Resource(name string) (int, error) {
	if r, ok := resources[name]; ok {
		return r, nil
	}
	names := keysOf(resources)
	hint := nearest.Hint(name, names)
	if hint == "" {
		hint = "; known are " + strings.Join(names, ", ")
	}
	return 0, fmt.Errorf("unknown resource limit %q%s", name, hint)
}

// rlimitFrom reads 1024, "unlimited", or [soft, hard] of these.
func rlimitFrom(v any) (Rlimit, error) {
	pair, isPair := v.([]any)
	if !isPair {
		pair = []any{v, v}
	}
	if len(pair) != 2 {
		return Rlimit{}, fmt.Errorf("want [soft, hard], not an array of %d", len(pair))
	}
	soft, err := limit(pair[0])
	if err != nil {
		return Rlimit{}, err
	}
	hard, err := limit(pair[1])
	if err != nil {
		return Rlimit{}, err
	}
	if soft > hard {
		return Rlimit{}, fmt.Errorf("the soft limit %v is above the hard limit %v", pair[0], pair[1])
	}
	return Rlimit{soft, hard}, nil
}

func limit(v any) (uint64, error) {
	switch v := v.(type) {
	case int64:
		if v >= 0 {
			return uint64(v), nil
		}
	case string:
		if v == "unlimited" {
			return Unlimited, nil
		}
	}
	return 0, fmt.Errorf(`%v is not a limit: want a number from 0, "unlimited", or [soft, hard]`, v)
}
