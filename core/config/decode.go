package config

import (
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/muxd/muxd/internal/nearest"
	"github.com/muxd/muxd/internal/spec"
)

// decoder fills a Config from a document that the TOML library has read into maps. The library's own decoding
// into structs ends at the first value of a wrong type and accepts keys in any case; this one goes on.
type decoder struct {
	lines    lines
	problems []problem
}

type problem struct {
	line int
	text string
}

// depth is how many elements of a path name the table that its value stands in.
var depth = map[string]int{"agent": 1, "plugins": 2, "sinks": 2, "child": 2}

// String is how people write the place: [agent] drain, [plugins.audit] env.HOME, [[child]] name.
func (p path) String() string {
	n := min(depth[p[0]], len(p))
	var table string
	switch {
	case n == 0:
	case p[0] == "child":
		table = "[[child]]"
	default:
		table = "[" + toml.Key(p[:n]).String() + "]"
	}
	if n == len(p) {
		return table
	}
	return strings.TrimPrefix(table+" ", " ") + toml.Key(p[n:]).String()
}

func (d *decoder) fail(at path, format string, args ...any) {
	d.problems = append(d.problems, problem{d.lines.of(at), at.String() + ": " + fmt.Sprintf(format, args...)})
}

// failed says whether the value at this place has been complained about already.
func (d *decoder) failed(at path) bool {
	return slices.ContainsFunc(d.problems, func(p problem) bool {
		return strings.HasPrefix(p.text, at.String()+": ") && p.line == d.lines.of(at)
	})
}

func (d *decoder) document(doc map[string]any, c *Config) {
	d.table(nil, doc, reflect.ValueOf(c).Elem())
}

// fields maps the keys of a table to the indexes of the struct's fields.
func fields(t reflect.Type) map[string]int {
	m := map[string]int{}
	for i := range t.NumField() {
		m[t.Field(i).Tag.Get("toml")] = i
	}
	return m
}

func keysOf[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// table fills a struct.
func (d *decoder) table(at path, m map[string]any, dst reflect.Value) {
	known := fields(dst.Type())
	for _, key := range keysOf(m) {
		if i, ok := known[key]; ok {
			d.value(at.key(key), m[key], dst.Field(i))
		} else {
			d.unknown(at.key(key), m[key], keysOf(known))
		}
	}
}

func (d *decoder) unknown(at path, value any, known []string) {
	key := at[len(at)-1]
	hint := nearest.Hint(key, known)
	switch {
	case len(at) > 1 && key == "plugin_dirs":
		hint = "; it stands at the top of the file, before the first table"
	case len(at) == 1 && slices.Contains(keysOf(fields(reflect.TypeFor[Agent]())), key):
		hint = "; it stands under [agent]"
	case hint == "":
		hint = "; known are " + strings.Join(known, ", ")
	}
	brackets := map[string]string{"a table": "[%s]: unknown table%s", "an array of tables": "[[%s]]: unknown table%s"}
	if format := brackets[kindOf(value)]; format != "" && len(at) == 1 {
		text := fmt.Sprintf(format, toml.Key(at), hint)
		d.problems = append(d.problems, problem{d.lines.of(at), text})
		return
	}
	d.fail(at, "unknown key%s", hint)
}

// value fills dst from v, by dst's type.
func (d *decoder) value(at path, v any, dst reflect.Value) {
	var err error
	switch p := dst.Addr().Interface().(type) {
	case *time.Duration:
		err = fromString(v, "a duration, as 500ms or 10s", p, time.ParseDuration)
	case *slog.Level:
		err = fromString(v, "a string", p, parseLevel)
	case *Size:
		err = fromString(v, `rows and columns, as "24x80"`, p, ParseSize)
	case **uint32:
		err = fromString(v, `an octal number in quotes, as "0022"`, p, parseUmask)
	case *Rlimit:
		*p, err = rlimitFrom(v)
	case *Specs:
		if s, ok := v.(string); ok {
			*p = Specs{s}
		} else {
			d.kind(at, v, dst)
		}
	case *spec.Spec:
		d.preset(at, v, p)
	default:
		d.kind(at, v, dst)
	}
	if err != nil {
		d.fail(at, "%v", err)
	}
}

// kind fills dst from v where dst is of no type that needs more.
func (d *decoder) kind(at path, v any, dst reflect.Value) {
	switch dst.Kind() {
	case reflect.String:
		if s, ok := v.(string); ok {
			dst.SetString(s)
			return
		}
	case reflect.Bool:
		if b, ok := v.(bool); ok {
			dst.SetBool(b)
			return
		}
	case reflect.Int:
		if n, ok := v.(int64); ok {
			dst.SetInt(n)
			return
		}
	case reflect.Struct:
		if m, ok := v.(map[string]any); ok {
			d.table(at, m, dst)
			return
		}
	case reflect.Map:
		if m, ok := v.(map[string]any); ok {
			d.mapping(at, m, dst)
			return
		}
	case reflect.Slice:
		if list, ok := elements(v); ok {
			d.list(at, list, dst)
			return
		}
	}
	d.fail(at, "want %s, not %s", wanted(dst.Type()), kindOf(v))
}

func (d *decoder) mapping(at path, m map[string]any, dst reflect.Value) {
	out := reflect.MakeMap(dst.Type())
	for _, key := range keysOf(m) {
		v := reflect.New(dst.Type().Elem()).Elem()
		d.value(at.key(key), m[key], v)
		out.SetMapIndex(reflect.ValueOf(key), v)
	}
	dst.Set(out)
}

func (d *decoder) list(at path, list []any, dst reflect.Value) {
	out := reflect.MakeSlice(dst.Type(), len(list), len(list))
	for i, v := range list {
		if c, ok := out.Index(i).Addr().Interface().(*Child); ok {
			*c = defaultChild()
		}
		d.value(at.key(strconv.Itoa(i)), v, out.Index(i))
	}
	dst.Set(out)
}

// elements returns an array, of tables or of anything else.
func elements(v any) ([]any, bool) {
	switch v := v.(type) {
	case []any:
		return v, true
	case []map[string]any:
		out := make([]any, len(v))
		for i, m := range v {
			out[i] = m
		}
		return out, true
	}
	return nil, false
}

// wanted says in TOML's words what a Go type is made from.
func wanted(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Struct {
			return "an array of tables, as [[child]]"
		}
		return "an array of strings"
	}
	return "a table"
}

// kindOf says what a value of a document is.
func kindOf(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case bool:
		return "a boolean"
	case int64:
		return "a number"
	case float64:
		return "a number with a fraction"
	case time.Time:
		return "a date"
	case map[string]any:
		return "a table"
	case []map[string]any:
		return "an array of tables"
	}
	return "an array"
}
