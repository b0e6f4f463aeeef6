package fdchan

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A call names a ticket on another socket while descriptors travel under it here: both are made at the same time, and where one fails the
// other is ended. What is returned then is the error of the call, unless that is of being ended.

// GiveFor gives copies of fds under a new ticket while call tells of it. It does not take ownership, and returns after both have
// succeeded, or one has failed.
func (e *Endpoint) GiveFor(ctx context.Context, fds []int, call func(ctx context.Context, ticket []byte) error) error {
	t := NewTicket()
	return e.GiveUnder(ctx, t, fds, func(ctx context.Context) error { return call(ctx, t[:]) })
}

// GiveUnder is GiveFor under a ticket of the caller's.
func (e *Endpoint) GiveUnder(ctx context.Context, t Ticket, fds []int, call func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	given := make(chan error, 1)
	go func() { given <- e.Give(ctx, t, fds...) }()
	if err := call(ctx); err != nil {
		cancel()
		<-given
		return err
	}
	return <-given
}

// TakeFor returns what comes under a new ticket while call tells of it. The delivery must be acknowledged; call may go on meanwhile, and wait,
// which must be called, returns its error.
func (e *Endpoint) TakeFor(ctx context.Context, call func(ctx context.Context, ticket []byte) error) (d *Delivery, wait func() error, err error) {
	t := NewTicket()
	ctx, cancel := context.WithCancelCause(ctx)
	called := make(chan error, 1)
	go func() {
		err := call(ctx, t[:])
		if err != nil {
			cancel(err)
		}
		called <- err
	}()
	d, err = e.TakeAny(ctx, t)
	if err != nil {
		cancel(err)
		if callErr := <-called; callErr != nil && status.Code(callErr) != codes.Canceled {
			err = callErr
		}
		return nil, nil, err
	}
	return d, func() error {
		defer cancel(nil)
		return <-called
	}, nil
}
