package host

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/muxd/muxd/sink/sinkpb"
)

func TestPlainText(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", ""},
		{"no space left: /var/log/x", "no space left: /var/log/x"},
		{"größer als 5 µs", "größer als 5 µs"},
		{"\x1b]0;title\x07red\x1b[31m\r\n", " ]0;title red [31m  "},
		{"a\u202eb", "a b"},
		{strings.Repeat("a", textMost), strings.Repeat("a", textMost)},
		{strings.Repeat("a", textMost+1), strings.Repeat("a", textMost) + "..."},
		{strings.Repeat("a", textMost-1) + "ßß", strings.Repeat("a", textMost-1) + "..."},
	} {
		if got := plainText(c.text); got != c.want {
			t.Errorf("%.40q: %.40q of %d bytes, want %.40q", c.text, got, len(got), c.want)
		}
	}
}

func TestPlainMessage(t *testing.T) {
	d := &sinkpb.Description{
		Name: "x\x1b", Carries: []sinkpb.Stream{sinkpb.Stream_STDOUT},
		Arg:     &sinkpb.Option{Help: "a\nb"},
		Options: []*sinkpb.Option{{Name: "o\t", Values: []string{"v\x00", "w"}}},
	}
	plainMessage(d.ProtoReflect())
	want := &sinkpb.Description{
		Name: "x ", Carries: []sinkpb.Stream{sinkpb.Stream_STDOUT},
		Arg:     &sinkpb.Option{Help: "a b"},
		Options: []*sinkpb.Option{{Name: "o ", Values: []string{"v ", "w"}}},
	}
	if !proto.Equal(d, want) {
		t.Errorf("%v, want %v", d, want)
	}
}
