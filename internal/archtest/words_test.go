package archtest

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// banned are words that stand for something that is not finished, or does not belong into a published tree.
var banned = []struct {
	word   *regexp.Regexp
	reason string
}{
	{regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|X` + `XX|HA` + `CK)\b`), "finish it, or say what is missing where users look"},
	{regexp.MustCompile(`/(work/(main|shared)|root|home/[a-z]+|Users/[a-z]+)/`), "a path of somebody's machine"},
	{regexp.MustCompile(`(?i)\b(white|black)` + `list`), "say which it is: allow list, or deny list"},
	{regexp.MustCompile(`<<<<<` + `<< |>>>>>` + `>> `), "an unresolved merge"},
}

func TestWords(t *testing.T) {
	err := walk(func(path string) error {
		text, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			return err
		}
		if bytes.IndexByte(text, 0) >= 0 {
			return nil // no text
		}
		for n, line := range bytes.Split(text, []byte("\n")) {
			for _, b := range banned {
				if w := b.word.Find(line); w != nil {
					t.Errorf("%s:%d: %q: %s", path, n+1, w, b.reason)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
