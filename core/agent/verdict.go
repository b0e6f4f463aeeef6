package agent

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/muxd/muxd/core/config"
	"github.com/muxd/muxd/core/host"
	"github.com/muxd/muxd/sink/sinkpb"
)

// verdicts are the choices that specs led to which put their streams on pipes, so that thousands of children with the same sink cost one
// parsing and one Check. Only such a spec is remembered as names nothing of the child, and only for the process that judged it and the
// configuration of that time. What has changed since, as a directory that is gone, Open finds.
type verdicts struct {
	mu sync.Mutex
	of map[question]verdict
}

// question is all that a choice depends on.
type question struct {
	text, cwd, streams string
	exact              bool
}

type verdict struct {
	by     *host.Plugin
	under  *config.Config
	choice choice // its spec is shared, and nobody changes it
}

// verdictsMost bounds them: more different specs than that are no crowd of children with the same.
const verdictsMost = 256

func questionOf(text string, streams []sinkpb.Stream, exact bool, cwd []byte) question {
	return question{text: text, cwd: string(cwd), streams: fmt.Sprint(streams), exact: exact}
}

// remembered returns the choice of q, where the plugin that judged it still runs.
func (a *Agent) remembered(q question) (choice, bool) {
	v := &a.verdicts
	v.mu.Lock()
	had, ok := v.of[q]
	v.mu.Unlock()
	if !ok || had.under != a.cfg.Load() || a.host.Running(had.by.Name()) != had.by {
		return choice{}, false
	}
	c := had.choice
	c.streams = slices.Clone(c.streams)
	return c, true
}

// remember keeps what q led to.
func (a *Agent) remember(q question, by *host.Plugin, under *config.Config, c choice) {
	if c.wiring != wiringPipe || strings.Contains(c.spec.String(), "{") {
		return
	}
	v := &a.verdicts
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.of == nil || len(v.of) >= verdictsMost {
		v.of = map[question]verdict{}
	}
	c.streams = slices.Clone(c.streams)
	v.of[q] = verdict{by, under, c}
}
