package file

import (
	"fmt"
	"strings"
	"time"

	"github.com/muxd/muxd/sink"
)

// The options about rotation, which files of children that write themselves cannot have.
var rotationOptions = []sink.Option{
	{Name: "max-size", Type: sink.Size, Help: "rotate a file before it becomes larger"},
	{Name: "rotate", Type: sink.String, Help: "rotate a file with the first output of another day (daily), hour (hourly) or period, as 15m"},
	{Name: "keep", Type: sink.Int, Help: "how many rotated files are kept"},
	{Name: "total-size", Type: sink.Size, Help: "how large all files of the log may be together; the oldest are deleted"},
	{Name: "max-age", Type: sink.Duration, Help: "how long rotated files are kept, as 720h"},
	{Name: "compress", Type: sink.Enum, Values: []string{"none", "gzip", "zstd"}, Default: "none", Help: "compress rotated files"},
}

// parseRotation understands these options.
func (s *settings) parseRotation(r *sink.Request) error {
	o := r.Options
	pack := o.String("compress")
	s.retention.pack = map[string]string{"gzip": packGzip, "zstd": packZstd}[pack]
	for _, name := range []string{"max-size", "rotate", "keep", "total-size", "max-age"} {
		if s.direct && o.Has(name) {
			return fmt.Errorf("%s with mode=direct: the child writes the file itself; use mode=pipe", name)
		}
	}
	if s.direct && s.retention.pack != packNone {
		return fmt.Errorf("compress=%s with mode=direct: the child writes the file itself; use mode=pipe", pack)
	}
	for _, name := range []string{"max-size", "keep", "total-size"} {
		if o.Has(name) && o.Int(name) < 1 {
			return fmt.Errorf("%s=%d: want 1 or more; leave it out for no limit", name, o.Int(name))
		}
	}
	s.rotation.size, s.retention.total = o.Int("max-size"), o.Int("total-size")
	s.retention.keep = int(o.Int("keep"))
	if s.retention.age = o.Duration("max-age"); o.Has("max-age") && s.retention.age <= 0 {
		return fmt.Errorf("max-age=%v: want a duration of more than 0", s.retention.age)
	}
	switch every := o.String("rotate"); every {
	case "":
	case "daily":
		s.rotation.daily = true
	case "hourly":
		s.rotation.every = time.Hour
	default:
		d, err := time.ParseDuration(every)
		if err != nil || d < time.Second {
			return fmt.Errorf("rotate=%s: want daily, hourly or a duration of 1s or more, as 15m", every)
		}
		s.rotation.every = d
	}
	dated := strings.Contains(r.Arg, dateMark)
	for name, given := range map[string]bool{
		"keep": s.retention.keep > 0, "total-size": s.retention.total > 0, "max-age": s.retention.age > 0,
		"compress": s.retention.pack != packNone,
	} {
		if given && !s.rotation.on() && !dated {
			return fmt.Errorf("%s without rotation: give max-size or rotate too, or {date} in the path", name)
		}
	}
	return nil
}
