package config

import (
	"strconv"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

func TestLocate(t *testing.T) {
	const text = `a = 1 # [not] = "a header"
"b.c" = """
x = 1
"""
'd' . "\u0065" = '''
[f]'''''
[f] # comment
g = [ 1, # one
  { h = 2,
 },
]
[[child]]
i = { j.k = "}", l = '#' }
[child.m]
n = 1979-05-27 07:32:00Z
[[child]]
[child.m."o ]"]
p = "a \" b"
[[child.q]]
[[child.q]]
r = """\""""""
s = 1
`
	if _, err := toml.Decode(text, new(map[string]any)); err != nil {
		t.Fatal(err)
	}
	lines := locate(text)
	for _, x := range []struct {
		at   string
		want int
	}{
		{"a", 1},
		{"b.c", 2},
		{"d/e", 5},
		{"d", 5},
		{"f", 7},
		{"f/g", 8},
		{"f/g/0", 8},
		{"f/g/1", 9},
		{"f/g/1/h", 9},
		{"child", 12},
		{"child/0", 12},
		{"child/0/i", 13},
		{"child/0/i/j/k", 13},
		{"child/0/i/l", 13},
		{"child/0/m", 14},
		{"child/0/m/n", 15},
		{"child/1", 16},
		{"child/1/m", 17},
		{"child/1/m/o ]", 17},
		{"child/1/m/o ]/p", 18},
		{"child/1/q/0", 19},
		{"child/1/q/1", 20},
		{"child/1/q/1/r", 21},
		{"child/1/q/1/s", 22},
		{"child/1/missing", 16},
		{"missing", 1},
	} {
		if got := lines.of(strings.Split(x.at, "/")); got != x.want {
			t.Errorf("%s: line %d, want %d", x.at, got, x.want)
		}
	}
}

// Every value of every document that the library accepts has a line, no other has one, and nothing hangs or panics.
func FuzzLocate(f *testing.F) {
	for _, seed := range []string{
		"a.b = 1\n[[c]]\nd = [[1, 2], [{e = '}'}]]\n[c.f]\n[[c]]\n", "x = '''a''''\ny = \"\"\"\\\"\"\"\"\"\nz=1",
		`"\u00e9".'a b' = 1979-05-27 07:32:00Z # c`, "[a]\r\n[a.b]\r\nc=\"#\"\r\n", "k = {a = 1, b.c = [ { d = 2 }, ], }\n", "\"\"=1",
		"\xef\xbb\xbfa = 1", "\xff\xfe",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var doc map[string]any
		if _, err := toml.Decode(text, &doc); err != nil {
			return
		}
		lines, values := locate(text), 0
		last := 1 + strings.Count(text, "\n")
		var walk func(at path, v any)
		walk = func(at path, v any) {
			if len(at) > 0 {
				values++
				if n, ok := lines[at.id()]; !ok || n < 1 || n > last {
					t.Errorf("%q has line %d, %v", at, n, ok)
				}
			}
			if m, ok := v.(map[string]any); ok {
				for k := range m {
					walk(at.key(k), m[k])
				}
			}
			if list, ok := elements(v); ok {
				for i := range list {
					walk(at.key(strconv.Itoa(i)), list[i])
				}
			}
		}
		walk(nil, doc)
		if len(lines) != values {
			t.Errorf("%d lines for %d values", len(lines), values)
		}
	})
}

// Whatever a file says, reading it ends with a Config or with complaints that name a line.
func FuzzParse(f *testing.F) {
	f.Add("[agent]\ndrain = \"1s\"\n[[child]]\nname = \"a\"\ncommand = [\"x\"]\n")
	f.Add("plugin_dirs = [1]\n[sinks.a]\nsink = \"file\"\n[plugins]\nx = 1\n[child]\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parse("f", text)
		if err == nil {
			for _, child := range c.Children {
				if child.Name == "" || len(child.Command) == 0 || child.Grace <= 0 || child.Size.Rows < 1 {
					t.Errorf("accepted %+v", child)
				}
			}
			return
		}
		if !strings.HasPrefix(err.Error(), "f:") {
			t.Errorf("no place: %v", err)
		}
	})
}
