package pty

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestIdleConsoleIsSmall holds the memory of a console that has shown nothing yet: what of it is the process's, and what of the memory
// that outlives the process was ever touched. However much scrollback it may have, that costs nothing before it is used.
func TestIdleConsoleIsSmall(t *testing.T) {
	const (
		n          = 100
		rows, cols = 30, 100
		most       = 64 << 10 // bytes a console, both together
	)
	for _, scrollback := range []int{64 << 10, scrollbackMost} {
		size := memorySize(scrollback)
		var files []int
		var consoles []*consoleSink
		before := heap()
		for range n {
			p, err := openPair(rows, cols)
			if err != nil {
				t.Fatal(err)
			}
			defer p.close()
			in, err := p.master.dup()
			if err != nil {
				t.Fatal(err)
			}
			file, err := unix.MemfdCreate("console", unix.MFD_CLOEXEC)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(file)
			if err := unix.Ftruncate(file, int64(size)); err != nil {
				t.Fatal(err)
			}
			b, err := unix.Mmap(file, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Munmap(b)
			c, err := newConsole(in, newMemory(b, scrollback), func() (uint32, bool) { return 0, false })
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			files, consoles = append(files, file), append(consoles, c)
		}
		own := (heap() - before) / n
		shared := uint64(0)
		for _, file := range files {
			var st unix.Stat_t
			if err := unix.Fstat(file, &st); err != nil {
				t.Fatal(err)
			}
			shared += uint64(st.Blocks) * 512 / n
		}
		t.Logf("scrollback %d: %d bytes of the process, %d of what outlives it", scrollback, own, shared)
		if own+shared > most {
			t.Errorf("an idle console of %dx%d with scrollback=%d costs %d bytes, want at most %d", rows, cols, scrollback, own+shared, most)
		}
		runtime.KeepAlive(consoles)
	}
}

// heap is how many bytes live on the heap.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
