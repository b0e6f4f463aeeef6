package file

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

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

// A file that is made has its owner and its mode before it has its name: after that nothing of it changes.
func TestMadeWhole(t *testing.T) {
	dir := t.TempDir()
	if n, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600); err != nil {
		t.Skipf("no files without a name in %s: %v", dir, err)
	} else {
		unix.Close(n)
	}
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(watch)
	if _, err := unix.InotifyAddWatch(watch, dir, unix.IN_CREATE|unix.IN_ATTRIB); err != nil {
		t.Fatal(err)
	}
	options := map[string]string{"perm": "0624", "format": "raw"}
	if os.Geteuid() == 0 {
		options["owner"] = "4321:1234"
	}
	path := filepath.Join(dir, "log")
	s, err := parseSettings(request(t, path, options, sink.Stdout))
	if err != nil {
		t.Fatal(err)
	}
	f, err := quick().openAppend(path, s)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o624 {
		t.Errorf("made with %v, %v", info.Mode(), err)
	}
	b := make([]byte, 4096)
	n, err := unix.Read(watch, b)
	if err != nil {
		t.Fatal(err)
	}
	named := false
	for b = b[:n]; len(b) > 0; b = b[unix.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(b[12:])):] {
		mask := binary.NativeEndian.Uint32(b[4:])
		if mask&unix.IN_ATTRIB != 0 && named {
			t.Errorf("something of %s changed after it had its name", path)
		}
		named = named || mask&unix.IN_CREATE != 0
	}
	if !named {
		t.Error("nobody was told that it is there")
	}
}
