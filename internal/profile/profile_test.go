package profile

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestTake(t *testing.T) {
	for kind, begins := range map[string]string{CPU: "\x1f\x8b", Heap: "\x1f\x8b", Goroutine: "\x1f\x8b", Stacks: "goroutine "} {
		var b bytes.Buffer
		if err := Take(t.Context(), &b, kind, time.Millisecond); err != nil || !strings.HasPrefix(b.String(), begins) {
			t.Errorf("%s: %v, %d bytes that begin with %.10q", kind, err, b.Len(), b.Bytes())
		}
	}
	var b bytes.Buffer
	if err := Take(t.Context(), &b, "mutex", time.Second); err == nil || !strings.Contains(err.Error(), `"mutex"`) {
		t.Errorf("unknown kind: %v", err)
	}
	for _, d := range []time.Duration{0, -1, Most + 1} {
		if err := Take(t.Context(), &b, CPU, d); err == nil {
			t.Errorf("a profile of %v was taken", d)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Take(ctx, &b, CPU, Most); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}
