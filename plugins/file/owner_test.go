package file

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/muxd/muxd/internal/need"
	"github.com/muxd/muxd/sink"
)

func TestOwnerRefused(t *testing.T) {
	for text, want := range map[string]string{
		"nobody-knows":      `owner=nobody-knows: there is no user "nobody-knows"`,
		":nobody-knows":     `owner=:nobody-knows: there is no group "nobody-knows"`,
		"root:":             "want USER, USER:GROUP or :GROUP",
		":":                 "want USER, USER:GROUP or :GROUP",
		"4294967295":        "there is no user",
		"-1":                "there is no user",
		"root:99999999999":  "there is no group",
		"root:daemon:other": "there is no group",
	} {
		_, err := Plugin().Check(request(t, "/a", map[string]string{"owner": text}))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("owner=%s: %v, want %q", text, err, want)
		}
	}
	if os.Geteuid() != 0 {
		if _, err := parseOwner("root"); err == nil || !strings.Contains(err.Error(), "start muxd as root") {
			t.Errorf("an ordinary user may give to root: %v", err)
		}
	}
}

// TestOwner looks at what is made for others: the file, its directories, its rotated and compressed files; and at what was there.
func TestOwner(t *testing.T) {
	need.Root(t)
	type ids struct{ uid, gid uint32 }
	of := func(path string) ids {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		st := info.Sys().(*syscall.Stat_t)
		return ids{st.Uid, st.Gid}
	}
	for text, want := range map[string]ids{
		"daemon":     {1, 1},
		"4321:1234":  {4321, 1234},
		"4321":       {4321, 0},
		"bin:daemon": {2, 1},
		":daemon":    {0, 1},
	} {
		top := t.TempDir()
		path := filepath.Join(top, "dir", "sub", "log")
		s, err := parseSettings(request(t, path, map[string]string{
			"owner": text, "perm": "0604", "format": "raw", "max-size": "4", "compress": "gzip",
		}, sink.Stdout))
		if err != nil {
			t.Fatal(err)
		}
		fs := quick()
		w := openStream(t, fs, s, sink.Stdout, path)
		w.put(noon, "one\ntwo\n", false)
		fs.jobs.Wait()
		_, names := whatStands(t, path)
		if len(names) != 2 || !strings.HasSuffix(names[0], ".gz") {
			t.Fatalf("files %v", names)
		}
		for _, name := range append(names, "../sub", "..") {
			if got := of(filepath.Join(top, "dir", "sub", name)); got != want {
				t.Errorf("owner=%s: %s belongs to %v, want %v", text, name, got, want)
			}
		}
		if info, _ := os.Stat(path); info.Mode().Perm() != 0o604 {
			t.Errorf("permissions %v", info.Mode())
		}
		if got := of(top); got != (ids{}) {
			t.Errorf("a directory that was there belongs to %v now", got)
		}
		was := filepath.Join(top, "was")
		if err := os.WriteFile(was, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		openStream(t, quick(), s, sink.Stdout, was)
		if got := of(was); got != (ids{}) {
			t.Errorf("a file that was there belongs to %v now", got)
		}
	}
}
