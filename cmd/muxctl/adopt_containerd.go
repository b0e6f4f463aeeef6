package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/control"
)

// containerd starts a logging binary for each process of a container whose log URI is binary:///PATH?KEY=VALUE&...: with each
// key and its first value as arguments, in any order, with nothing but the two variables below in its environment, with
// /dev/null as its stdio, and with these descriptors (NewBinaryIO and NewBinaryCmd in containerd's shim for runc). The
// process is not started before the third is written to or closed.
const (
	containerdStdout = 3
	containerdStderr = 4
	containerdReady  = 5
)

// containerdWait is how long the start of a container may wait for a muxd that cannot be reached.
const containerdWait = 30 * time.Second

// forContainerd completes f as containerd's logger: what has no sink of its own shares that of the other.
func (f *adoptFlags) forContainerd() error {
	id, namespace := os.Getenv("CONTAINER_ID"), os.Getenv("CONTAINER_NAMESPACE")
	if id == "" {
		return usageError("adopt containerd: there is no CONTAINER_ID in the environment; this is for containerd to run, as in " +
			"ctr run --log-uri 'binary:///PATH/TO/muxctl?adopt=containerd&--sink=file:/var/log/{name}.log'")
	}
	if f.name == "" {
		f.name = id
		if namespace != "default" {
			f.name = namespace + "." + id
		}
	}
	*f.fds["stdout"], *f.fds["stderr"] = containerdStdout, containerdStderr
	out, errs := f.sinks["stdout"], f.sinks["stderr"]
	if f.sink == "" && len(*out) == 0 {
		*out = *errs
	}
	if f.sink == "" && len(*errs) == 0 {
		*errs = *out
	}
	return nil
}

// adoptForContainerd hands the container's output over and lets it start. Where muxd cannot be reached the start waits, since
// a container whose logger has failed runs without a reader, and dies of its first line. A name that is still in use,
// by an earlier run of the container or another process of it, is not taken.
func (a *app) adoptForContainerd(ctx context.Context, ad control.Adoption) error {
	ready := os.NewFile(containerdReady, "ready")
	defer ready.Close()
	ctx, cancel := context.WithTimeout(ctx, containerdWait)
	defer cancel()
	for {
		err := a.adopt(ctx, ad, io.Discard)
		switch {
		case err == nil:
			if _, err := ready.Write([]byte{1}); err != nil {
				return fmt.Errorf("tell containerd that its logger is ready: %w", err)
			}
			return nil
		case status.Code(err) == codes.AlreadyExists && ad.Name != "":
			ad.Name = ""
			continue
		case !control.Unreachable(err):
			return err
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return err
		}
	}
}
