package sink

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestRoom lowers the limit of this process to where a new opening would reach into the reserve, and no further.
func TestRoom(t *testing.T) {
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	n, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(n)
	limit := func(cur uint64) {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: cur, Max: was.Max}); err != nil {
			t.Fatal(err)
		}
	}
	defer limit(was.Cur)
	limit(uint64(n) + 1000)
	if err := room(); err != nil {
		t.Errorf("with 1000 left: %v", err)
	}
	limit(400) // of which 64 are kept
	if uint64(n) > 300 {
		t.Skipf("%d descriptors are open already", n)
	}
	if err := room(); err != nil {
		t.Errorf("with %d left: %v", 400-n, err)
	}
	limit(uint64(n) + 1)
	err = room()
	if !errors.Is(err, unix.EMFILE) || !strings.Contains(err.Error(), "raise the limit of muxd") {
		t.Errorf("with 1 left: %v", err)
	}
	if code := status.Code(openError(err)); code != codes.ResourceExhausted {
		t.Errorf("code %v", code)
	}
	if m, openErr := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0); openErr != nil {
		t.Errorf("nothing is left when it is refused: %v", openErr)
	} else {
		unix.Close(m)
	}
}
