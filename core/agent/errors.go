package agent

import (
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// plainError is err without the words that gRPC puts around it.
func plainError(err error) error {
	if s, ok := status.FromError(err); ok && s.Code() != codes.OK {
		return errors.New(s.Message())
	}
	return err
}

// plainStatus gives err a gRPC code, if it has none.
func plainStatus(err error) error {
	if s, ok := status.FromError(err); ok {
		if pluginGone(err) {
			return status.Errorf(codes.Unavailable, "the sink's plugin has ended: %s", s.Message())
		}
		return err
	}
	return status.Error(codes.FailedPrecondition, err.Error())
}
