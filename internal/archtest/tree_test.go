package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const (
	root   = "../.."
	module = "github.com/muxd/muxd/"
)

// source is a Go file of the module.
type source struct {
	path      string // below the root
	dir       string // the package's, below the root
	test      bool
	generated bool
	file      *ast.File
}

// imports are the packages that s imports: those of this module without its name and with "./" before them.
func (s *source) imports(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, i := range s.file.Imports {
		path, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		if ours, ok := strings.CutPrefix(path, module); ok {
			path = "./" + ours
		}
		out = append(out, path)
	}
	return out
}

var fset = token.NewFileSet()

var parseTree = sync.OnceValues(func() ([]*source, error) {
	var out []*source
	err := walk(func(path string) error {
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		f, err := parser.ParseFile(fset, filepath.Join(root, path), nil, parser.ParseComments)
		if err != nil {
			return err
		}
		out = append(out, &source{
			path: path, dir: filepath.Dir(path), test: strings.HasSuffix(path, "_test.go"), generated: ast.IsGenerated(f), file: f,
		})
		return nil
	})
	return out, err
})

// sources are all Go files of the module.
func sources(t *testing.T) []*source {
	t.Helper()
	all, err := parseTree()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatal("no Go files found")
	}
	return all
}

// walk calls f for the files of the module, by their path below the root. Modules inside it, hidden directories other
// than .ci, bin and testdata are left out.
func walk(f func(path string) error) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if !d.IsDir() {
			if rel == ".git" { // of a work tree that is not the first: it names the other
				return nil
			}
			return f(rel)
		}
		name := d.Name()
		hidden := strings.HasPrefix(name, ".") && name != ".ci"
		if rel != "." && (hidden || name == "testdata" || rel == "bin") {
			return filepath.SkipDir
		}
		if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil && rel != "." {
			return filepath.SkipDir
		}
		return nil
	})
}
