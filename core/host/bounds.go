package host

import (
	"path/filepath"
	"slices"
	"strings"
)

// Bounds are parts of the file system, by absolute path.
type Bounds struct {
	Read  []string // to read and execute
	Write []string // to read, execute, change, and connect to
}

// Bounds are what the process may reach in the file system beside what every program needs; nil: all that its user may.
func (p *Plugin) Bounds() *Bounds { return p.command.Bounds }

// Reach says whether a file of that absolute path is within b, or may be: what stands behind a placeholder, as in "/var/log/{name}.log", is not
// known yet. It is for a sentence to the user, in time; who enforces it is the kernel, on what it opens in the end.
func (b *Bounds) Reach(path string) bool {
	if b == nil {
		return true
	}
	if i := strings.IndexByte(path, '{'); i >= 0 {
		path = path[:strings.LastIndexByte(path[:i], '/')+1]
	}
	path = resolved(path)
	return slices.ContainsFunc(slices.Concat(systemPaths, systemDevices, b.Read, b.Write), func(root string) bool {
		rel, err := filepath.Rel(resolved(root), path)
		return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
	})
}

// resolved is path without symbolic links, as far as it exists.
func resolved(path string) string {
	path = filepath.Clean(path)
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	if dir := filepath.Dir(path); dir != path {
		return filepath.Join(resolved(dir), filepath.Base(path))
	}
	return path
}
