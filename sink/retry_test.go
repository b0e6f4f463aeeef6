package sink

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestRetriesTellOnce(t *testing.T) {
	var told []error
	all := &Retries{Report: func(err error) { told = append(told, err) }, First: time.Millisecond, Most: 2 * time.Millisecond}
	a, b := all.New(), all.New()
	wrong, other := errors.New("wrong"), errors.New("other")
	for _, r := range []*Retry{a, b, a} {
		if err := r.Wait(t.Context(), wrong); err != nil {
			t.Fatal(err)
		}
		wrong = other
	}
	a.Over()
	if len(told) != 1 || told[0].Error() != "wrong" {
		t.Errorf("told %v while one still waits", told)
	}
	b.Over()
	b.Over()
	if len(told) != 2 || told[1] != nil {
		t.Errorf("told %v when none waits", told)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Wait(ctx, wrong); !errors.Is(err, context.Canceled) {
		t.Errorf("a wait that is called off: %v", err)
	}
}
