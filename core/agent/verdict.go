package agent

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/muxd/muxd/core/host"
	"github.com/muxd/muxd/internal/spec"
	"github.com/muxd/muxd/sink/sinkpb"
)

// verdicts are what plugins have said of specs that put their streams on pipes, so that thousands of children with the same sink cost
// one Check. Only such a spec is remembered as names nothing of the child, and only for the process that judged it. What has changed
// since, as a directory that is gone, Open finds.
type verdicts struct {
	mu sync.Mutex
	of map[string]verdict // by plugin, spec and streams
}

type verdict struct {
	by   *host.Plugin
	spec spec.Spec // one for all, which nobody changes
	said *sinkpb.CheckResponse
}

// verdictsMost bounds them: more different specs than that are no crowd of children with the same.
const verdictsMost = 256

// check asks p for its judgement, or remembers it; and then s is the spec that was judged.
func (v *verdicts) check(ctx context.Context, p *host.Plugin, s *spec.Spec, child *sinkpb.Child, streams []sinkpb.Stream) (*sinkpb.CheckResponse, error) {
	text := s.String()
	key := fmt.Sprint(streams, text)
	v.mu.Lock()
	had, ok := v.of[key]
	v.mu.Unlock()
	if ok && had.by == p {
		*s = had.spec
		return had.said, nil
	}
	said, err := p.Sinks().Check(ctx, &sinkpb.CheckRequest{Spec: wireSpec(*s), Child: child, Streams: streams})
	if err != nil || said.Wiring != sinkpb.Wiring_PIPE || strings.Contains(text, "{") {
		return said, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.of == nil || len(v.of) >= verdictsMost {
		v.of = map[string]verdict{}
	}
	v.of[key] = verdict{p, *s, said}
	return said, nil
}
