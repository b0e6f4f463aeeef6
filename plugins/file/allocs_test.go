//go:build !race

// What allocates here is counted in the whole process, so tools/test runs these tests by themselves, and without the race detector,
// under which pools forget.

package file

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/muxd/muxd/sink"
)

// still is a slot that keeps nothing.
type still struct{}

func (still) Intent() []byte  { return nil }
func (still) Intend([]byte)   {}
func (still) SetState([]byte) {}

// TestNoAllocations puts out chunk after chunk without a byte of new memory.
func TestNoAllocations(t *testing.T) {
	data := []byte(strings.Repeat(strings.Repeat("x", 99)+"\n", 5000) + "unfinished")
	for name, f := range formats {
		w := openStream(t, quick(), settings{format: f, perm: 0o640, maxLine: 16 << 10}, sink.Stdout, temp(t))
		w.w.files.lookAgain = 1 << 40
		p := part{data: data, state: bytes.Repeat([]byte("y"), 50), time: noon}
		n := testing.AllocsPerRun(50, func() {
			if err := w.w.put(context.Background(), p, still{}); err != nil {
				t.Fatal(err)
			}
		})
		if n > 0 {
			t.Errorf("%s: %v allocations a chunk", name, n)
		}
	}
}

func TestRenderingAllocatesNothing(t *testing.T) {
	data := bytes.Repeat([]byte("a line of some \"length\"\n"), 3000)
	for name, f := range formats {
		if f == nil {
			continue
		}
		stamp := f.stamp(nil, noon, sink.Stdout)
		buf := make([]byte, 0, pieceSize+recordMost)
		allocs := testing.AllocsPerRun(10, func() {
			r := records{format: f, stamp: stamp, most: 16 << 10, data: data}
			for len(r.next(buf, pieceSize)) > 0 {
			}
		})
		if allocs != 0 {
			t.Errorf("%s: %v allocations for a chunk", name, allocs)
		}
	}
}

func BenchmarkPut(b *testing.B) {
	for _, name := range []string{formatCRI, formatJSON, formatTAI64N, formatISO, formatRaw} {
		for shape, line := range map[string]int{"lines": 99, "long": 64<<10 - 1} {
			b.Run(name+"/"+shape, func(b *testing.B) {
				data := []byte(strings.Repeat(strings.Repeat("x", line)+"\n", 1<<20/(line+1)))
				w, err := newStream(quick(), &settings{format: formats[name], perm: 0o640, maxLine: 16 << 10}, target{sink.Stdout, "/dev/null"}, &troubles{})
				if err != nil {
					b.Fatal(err)
				}
				defer w.close()
				w.files.lookAgain = 1 << 40
				b.SetBytes(int64(len(data)))
				b.ReportAllocs()
				for b.Loop() {
					if err := w.put(context.Background(), part{data: data, time: noon}, still{}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
