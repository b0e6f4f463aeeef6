package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// socketPathMost is the longest path of a Unix socket: sun_path has 108 bytes, one of them for the zero (unix(7)).
const socketPathMost = 107

// longestSocket is the longest name of a socket in the runtime directory: go-plugin makes those of plugins, and
// os.CreateTemp their numbers.
const longestSocket = "plugins/plugin-dir4294967295/plugin4294967295"

// DefaultRuntimeDir is where muxd keeps its sockets if nobody says otherwise: $XDG_RUNTIME_DIR/muxd, or /run/muxd
// for root without one.
func DefaultRuntimeDir() (string, error) {
	switch dir := os.Getenv("XDG_RUNTIME_DIR"); {
	case filepath.IsAbs(dir):
		return filepath.Join(dir, "muxd"), nil
	case dir != "":
		return "", fmt.Errorf("find the runtime directory: XDG_RUNTIME_DIR is %q, which is not an absolute path", dir)
	case os.Geteuid() == 0:
		return "/run/muxd", nil
	}
	return "", errors.New("find the runtime directory: XDG_RUNTIME_DIR is not set; " +
		"set it, or runtime_dir in the table [agent] of the configuration, or give --runtime-dir")
}

// Dir is the runtime directory: override (of --runtime-dir) if it is not empty, or what the file says, or the default.
// It need not exist.
func (a Agent) Dir(override string) (string, error) {
	dir := a.RuntimeDir
	if override != "" {
		abs, err := filepath.Abs(override)
		if err != nil {
			return "", fmt.Errorf("find the runtime directory: %w", err)
		}
		dir = abs
	}
	if dir == "" {
		d, err := DefaultRuntimeDir()
		if err != nil {
			return "", err
		}
		dir = d
	}
	if err := CheckRuntimeDir(dir); err != nil {
		return "", fmt.Errorf("runtime directory: %w", err)
	}
	return dir, nil
}

// CheckRuntimeDir says whether sockets can be made in dir, as far as its name tells.
func CheckRuntimeDir(dir string) error {
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("%q is not an absolute path", dir)
	}
	if strings.Contains(dir, "\x00") {
		return fmt.Errorf("%q has a zero byte in it", dir)
	}
	if n := len(filepath.Join(dir, longestSocket)); n > socketPathMost {
		return fmt.Errorf("%s/%s, as a plugin's socket may be called, is %d bytes long, and a Unix socket's path has at most %d; "+
			"choose a directory of at most %d bytes", dir, longestSocket, n, socketPathMost, socketPathMost-len(longestSocket)-1)
	}
	return nil
}
