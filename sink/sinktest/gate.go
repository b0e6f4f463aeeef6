package sinktest

import (
	"context"
	"errors"
	"sync"
)

// gate lets what comes in pass, or holds it up, and counts it.
type gate struct {
	*sync.Mutex
	changed *sync.Cond
	state   *gateState
}

type gateState struct {
	shut, over bool
	passed     int64
	fault      error
}

func newGate() gate {
	mu := &sync.Mutex{}
	return gate{mu, sync.NewCond(mu), &gateState{}}
}

var errGateOver = errors.New("nothing is read any more")

// pass returns when the gate is open, or with an error when it is over.
func (g gate) pass() error {
	g.Lock()
	defer g.Unlock()
	for g.state.shut && !g.state.over {
		g.changed.Wait()
	}
	if g.state.over {
		return errGateOver
	}
	return nil
}

// set opens or shuts the gate.
func (g gate) set(shut bool) {
	g.Lock()
	defer g.Unlock()
	g.state.shut = shut
	g.changed.Broadcast()
}

// add counts n bytes.
func (g gate) add(n int) {
	g.Lock()
	defer g.Unlock()
	g.state.passed += int64(n)
	g.changed.Broadcast()
}

func (g gate) count() int64 {
	g.Lock()
	defer g.Unlock()
	return g.state.passed
}

// wait returns when n bytes have passed, or ctx is done.
func (g gate) wait(ctx context.Context, n int64) error {
	defer context.AfterFunc(ctx, func() {
		g.Lock()
		defer g.Unlock()
		g.changed.Broadcast()
	})()
	g.Lock()
	defer g.Unlock()
	for g.state.passed < n && g.state.fault == nil && ctx.Err() == nil {
		g.changed.Wait()
	}
	switch {
	case g.state.fault != nil:
		return g.state.fault
	case g.state.passed < n:
		return context.Cause(ctx)
	}
	return nil
}

// fail has every wait return err.
func (g gate) fail(err error) {
	g.Lock()
	defer g.Unlock()
	if g.state.fault == nil {
		g.state.fault = err
	}
	g.changed.Broadcast()
}

// end ends whoever waits.
func (g gate) end() {
	g.Lock()
	defer g.Unlock()
	g.state.over = true
	g.changed.Broadcast()
}
