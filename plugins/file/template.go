package file

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/muxd/muxd/sink"
)

// expand replaces the placeholders in path. What they stand for is part of a name and never a path of its own,
// so that a child's name cannot lead out of the directory that the spec says.
func expand(path string, child sink.Child, stream sink.Stream) (string, error) {
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
		if "{"+word+"}" == dateMark { // it is replaced when something is written
			b.WriteString(dateMark)
			rest = end
			continue
		}
		value, err := placeholder(word, child, stream)
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

// placeholder returns what stands for {word}. A child without a name goes by its id.
func placeholder(word string, child sink.Child, stream sink.Stream) (string, error) {
	switch word {
	case "name":
		if child.Name == "" {
			return child.ID, nil
		}
		return child.Name, nil
	case "id":
		return child.ID, nil
	case "stream":
		return stream.String(), nil
	case "run":
		return strconv.Itoa(child.Run), nil
	case "host":
		host, err := os.Hostname()
		if err != nil {
			return "", fmt.Errorf("{host}: %w", err)
		}
		return host, nil
	}
	return "", fmt.Errorf("unknown placeholder {%s}; there are {name}, {id}, {stream}, {host}, {run} and {date}", word)
}
