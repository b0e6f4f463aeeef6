package sink

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Expand replaces the placeholders in path: {name}, {id}, {stream}, {host} and {run}. What they stand for is part of a
// name and never a path of its own, so that a child's name cannot lead out of the directory that the spec says. Words in keep are
// left as they are.
func (c Child) Expand(path string, stream Stream, keep ...string) (string, error) {
	var b strings.Builder
	rest := path
	for {
		before, after, found := strings.Cut(rest, "{")
		b.WriteString(before)
		if !found {
			return b.String(), nil
		}
		word, end, closed := strings.Cut(after, "}")
		if !closed {
			return "", fmt.Errorf("path %s: %q has no closing brace", path, "{"+after)
		}
		if slices.Contains(keep, word) {
			b.WriteString("{" + word + "}")
			rest = end
			continue
		}
		value, err := c.placeholder(word, stream, keep)
		if err != nil {
			return "", fmt.Errorf("path %s: %w", path, err)
		}
		if strings.Contains(value, "/") || strings.Contains(value, "\x00") || value == "." || value == ".." {
			return "", fmt.Errorf("path %s: {%s} stands for %q, which cannot be part of a file's name; use {id}",
				path, word, value)
		}
		b.WriteString(value)
		rest = end
	}
}

// placeholder returns what stands for {word}. A child without a name goes by its id. An error names others too that there are.
func (c Child) placeholder(word string, stream Stream, others []string) (string, error) {
	switch word {
	case "name":
		if c.Name == "" {
			return c.ID, nil
		}
		return c.Name, nil
	case "id":
		return c.ID, nil
	case "stream":
		return stream.String(), nil
	case "run":
		return strconv.Itoa(c.Run), nil
	case "host":
		host, err := os.Hostname()
		if err != nil {
			return "", fmt.Errorf("{host}: %w", err)
		}
		return host, nil
	}
	all := append([]string{"name", "id", "stream", "host", "run"}, others...)
	return "", fmt.Errorf("unknown placeholder {%s}; there are {%s}", word, strings.Join(all, "}, {"))
}
