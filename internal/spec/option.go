package spec

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	units "github.com/docker/go-units"

	"github.com/muxd/muxd/internal/nearest"
)

// Type is what an option's value must look like.
type Type int

const (
	String Type = iota
	Int
	Bool
	Duration // as 1m30s
	Size     // bytes, as 10MiB
	Enum     // one of Option.Values
	Path     // made absolute by the core against the caller's working directory
)

var typeNames = [...]string{"string", "int", "bool", "duration", "size", "enum", "path"}

// String is the type's name. One that a newer plugin may know is a string to whoever does not know it.
func (t Type) String() string {
	if t < 0 || int(t) >= len(typeNames) {
		t = String
	}
	return typeNames[t]
}

// Option declares one option of a sink: how it is parsed, checked, described and completed follows from it.
type Option struct {
	Name     string
	Type     Type
	Default  string
	Help     string
	Values   []string // of an Enum
	Required bool
}

// Parse returns value as the option's type: string, int64, bool, time.Duration, or int64 for a Size.
func (o Option) Parse(value string) (any, error) {
	bad := func(want string) error {
		return fmt.Errorf("%s=%s: want %s", o.Name, value, want)
	}
	switch o.Type {
	case Int:
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return nil, bad("a whole number")
		}
		return n, nil
	case Bool:
		b, err := strconv.ParseBool(value)
		if err != nil {
			return nil, bad("true or false")
		}
		return b, nil
	case Duration:
		d, err := time.ParseDuration(value)
		if err != nil || d < 0 {
			return nil, bad("a duration, as 500ms or 1m30s")
		}
		return d, nil
	case Size:
		n, err := units.RAMInBytes(value)
		if err != nil || n < 0 {
			return nil, bad("a size, as 64KiB or 10MiB")
		}
		return n, nil
	case Enum:
		if !slices.Contains(o.Values, value) {
			return nil, fmt.Errorf("%s=%s: want one of %s%s", o.Name, value, strings.Join(o.Values, ", "),
				nearest.Hint(value, o.Values))
		}
	case Path:
		if value == "" {
			return nil, bad("a path")
		}
	}
	return value, nil
}

// Check judges what a spec gives against what a sink takes. arg is nil where nothing may stand behind "NAME:".
func (p Spec) Check(arg *Option, options []Option) error {
	fail := func(err error) error { return fmt.Errorf("sink %s: %w", p.Name, err) }
	switch {
	case p.Arg != "" && arg == nil:
		return fail(fmt.Errorf("nothing may stand behind %q, and %q does", p.Name+":", p.Arg))
	case p.Arg == "" && arg != nil && arg.Required:
		return fail(fmt.Errorf("%s is missing, as in %s:%s", arg.Name, p.Name, strings.ToUpper(arg.Name)))
	case p.Arg != "":
		if _, err := arg.Parse(p.Arg); err != nil {
			return fail(err)
		}
	}
	names := make([]string, len(options))
	for i, o := range options {
		names[i] = o.Name
		value, given := p.Options[o.Name]
		switch {
		case given:
			if _, err := o.Parse(value); err != nil {
				return fail(err)
			}
		case o.Required:
			return fail(fmt.Errorf("option %s is missing", o.Name))
		}
	}
	for key := range p.Options {
		if slices.Contains(names, key) {
			continue
		}
		if len(names) == 0 {
			return fail(fmt.Errorf("unknown option %q: it takes none", key))
		}
		hint := nearest.Hint(key, names)
		if hint == "" {
			hint = "; it takes " + strings.Join(names, ", ")
		}
		return fail(fmt.Errorf("unknown option %q%s", key, hint))
	}
	return nil
}
