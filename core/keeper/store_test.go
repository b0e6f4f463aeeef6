package keeper

import (
	"strings"
	"testing"
)

func TestStoreNames(t *testing.T) {
	for _, name := range []string{"far/x/x/1/0/console", "park/a b/own/ü:%", "park/\x00\x7f"} {
		id := storeName(name)
		for _, c := range []byte(id) {
			if c <= ' ' || c >= 0x7f || c == ':' {
				t.Errorf("%q becomes %q", name, id)
			}
		}
		if back, ok := nameOf(id); !ok || back != name {
			t.Errorf("%q becomes %q, and that %q, %v", name, id, back, ok)
		}
	}
	if id := storeName("park/" + strings.Repeat("x", 250)); id != "" {
		t.Errorf("a long name becomes %q", id)
	}
	for _, id := range []string{"", "stored", "muxd-", "muxd-%", "muxd-%0", "muxd-%zz"} {
		if name, ok := nameOf(id); ok {
			t.Errorf("%q is %q", id, name)
		}
	}
}

func FuzzStoreNames(f *testing.F) {
	f.Add("muxd-far/%3a")
	f.Fuzz(func(t *testing.T, id string) {
		if name, ok := nameOf(id); ok && storeName(name) != "" {
			if back, ok := nameOf(storeName(name)); !ok || back != name {
				t.Errorf("%q is %q, and back %q", id, name, back)
			}
		}
	})
}
