package socket

import "context"

// turn is a lock that can be waited for until a context is done. It holds a token while nobody has it.
type turn chan struct{}

func newTurn() turn {
	t := make(turn, 1)
	t <- struct{}{}
	return t
}

// lock returns ctx's error where ctx is done, whether the turn could be had or not.
func (t turn) lock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-t:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t turn) unlock() { t <- struct{}{} }
