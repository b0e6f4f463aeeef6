package screen

import (
	"bytes"
	"fmt"
	"testing"
)

func benchmark(b *testing.B, out []byte) {
	m := New(30, 100)
	m.Scrolled = func([]byte) {}
	b.SetBytes(int64(len(out)))
	b.ReportAllocs()
	for b.Loop() {
		m.Write(out)
	}
}

func BenchmarkText(b *testing.B) {
	benchmark(b, bytes.Repeat([]byte("The quick brown fox jumps over the lazy dog, again and again. "), 1000))
}

func BenchmarkLines(b *testing.B) {
	benchmark(b, bytes.Repeat([]byte("a line of some forty bytes, as logs have\r\n"), 1000))
}

func BenchmarkShortLines(b *testing.B) {
	var out []byte
	for n := range 10000 {
		out = fmt.Appendf(out, "%d\r\n", n)
	}
	benchmark(b, out)
}

func BenchmarkColours(b *testing.B) {
	benchmark(b, bytes.Repeat([]byte("\x1b[1;34mdir\x1b[0m  \x1b[38;5;208mfile.go\x1b[m \x1b[38;2;10;20;30mx\x1b[39m\r\n"), 1000))
}

func BenchmarkUTF8(b *testing.B) {
	benchmark(b, bytes.Repeat([]byte("日本語の文字列とäöüß€ und so weiter\r\n"), 1000))
}

func BenchmarkCheckpoint(b *testing.B) {
	m := New(30, 100)
	for n := range 200 {
		m.Write(fmt.Appendf(nil, "\x1b[3%dmline %d of a screen\x1b[m with some text in it, as there is in most\r\n", n%8, n))
	}
	var c []byte
	b.ReportAllocs()
	for b.Loop() {
		c = m.AppendCheckpoint(c[:0])
	}
	b.ReportMetric(float64(len(c)), "bytes")
}
