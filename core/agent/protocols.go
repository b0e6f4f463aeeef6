package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/muxd/muxd/core/host"
	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/internal/protocols"
)

// Protocols is what a program of muxd speaks with those that it takes over from, or meets: the answer of "muxd protocols".
type Protocols struct {
	Version   string `json:"version"`
	Journal   int    `json:"journal"`
	Keeper    int    `json:"keeper"`
	Sink      string `json:"sink_versions"` // a range
	FDChannel int    `json:"fd_channel"`
}

// Versions of what only muxd itself reads: the journal with the addresses of plugins, and keeper.proto.
const (
	journalVersion = 2
	keeperVersion  = 1
)

// ProtocolsOf is what this program speaks, whose version is given.
func ProtocolsOf(version string) Protocols {
	return Protocols{Version: version, Journal: journalVersion, Keeper: keeperVersion, Sink: host.Protocols().String(), FDChannel: fdchan.Version}
}

// against says why a muxd that speaks ours cannot be upgraded to one that speaks p; nil: it can.
func (p Protocols) against(ours Protocols) error {
	for _, x := range []struct {
		name        string
		theirs, our int
	}{
		{"journal", p.Journal, ours.Journal}, {"keeper protocol", p.Keeper, ours.Keeper},
		{"fd channel", p.FDChannel, ours.FDChannel},
	} {
		switch {
		case x.theirs < x.our:
			return fmt.Errorf("version %s speaks version %d of the %s, and this muxd, %s, speaks %d: install a newer one there",
				p.Version, x.theirs, x.name, ours.Version, x.our)
		case x.theirs > x.our:
			return fmt.Errorf("version %s speaks version %d of the %s, and this muxd, %s, speaks %d: it is too old to be upgraded in place; "+
				"stop it (muxctl agent stop) and start the new one", p.Version, x.theirs, x.name, ours.Version, x.our)
		}
	}
	return nil
}

// speaksTo says why a muxd that speaks p cannot take a running plugin over with which a version of the sink protocol was agreed on; nil: it can.
func (p Protocols) speaksTo(plugin string, version int) error {
	theirs, err := protocols.Parse(p.Sink)
	if err != nil {
		return fmt.Errorf("version %s does not say which versions of the sink protocol it speaks: %w", p.Version, err)
	}
	if theirs.Has(version) {
		return nil
	}
	update := "the plugin"
	if version > theirs.Newest {
		update = "what is to be upgraded to"
	}
	return fmt.Errorf("plugin %s speaks version %d of the sink protocol, and version %s speaks %s: update %s first", plugin, version, p.Version, theirs, update)
}

// askMost is how long a program may take to say what it speaks.
const askMost = 10 * time.Second

// askProtocols runs the program exe, and returns what it speaks.
func askProtocols(ctx context.Context, exe *os.File) (Protocols, error) {
	out, err := ask(ctx, exe, "protocols")
	if err != nil {
		return Protocols{}, err
	}
	var p Protocols
	if err := json.Unmarshal(out, &p); err != nil || p.Version == "" {
		return Protocols{}, fmt.Errorf("it says %.80q in place of its protocols; is it a muxd?", strings.TrimSpace(string(out)))
	}
	return p, nil
}

// ask runs exe with args, and returns what it writes to stdout. What it writes to stderr is in the error.
func ask(ctx context.Context, exe *os.File, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askMost)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/fd/3", args...) // the very file that will be used
	cmd.ExtraFiles = []*os.File{exe}
	cmd.WaitDelay = time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("it was asked with %q: %w: %.200s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}
