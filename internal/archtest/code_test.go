package archtest

import (
	"go/ast"
	"strings"
	"testing"
)

func at(n ast.Node) string {
	p := fset.Position(n.Pos())
	return strings.TrimPrefix(p.String(), root+"/")
}

func TestPackageComments(t *testing.T) {
	documented := map[string]bool{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		doc := s.file.Doc
		documented[s.dir] = documented[s.dir] || s.generated || doc != nil && strings.TrimSpace(doc.Text()) != ""
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("%s: no file has a package comment: it says what the package provides, and go doc shows it", dir)
		}
	}
}

// fdAllowed are directories in which Fd may be called.
var fdAllowed = []string{"internal/fd"}

func TestNoFd(t *testing.T) {
	calls(t, func(s *source, call *ast.CallExpr) {
		method, ok := call.Fun.(*ast.SelectorExpr)
		if ok && method.Sel.Name == "Fd" && len(call.Args) == 0 && !underAny(s.dir, fdAllowed) {
			t.Errorf("%s: Fd makes the descriptor blocking, for everybody who shares it, and outlives no Close: "+
				"use SyscallConn, or internal/fd", at(call))
		}
	})
}

func TestNoInit(t *testing.T) {
	for _, s := range sources(t) {
		if s.generated {
			continue
		}
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s: init runs in every process that links the package, unasked: let somebody call it", at(f))
			}
		}
	}
}

// sleepAllowed are the files that may call time.Sleep, and why.
var sleepAllowed = map[string]string{
	"internal/stage/moment.go": "it lets small writes merge for the length of batchWait, which is shorter than a wake-up is worth",
}

func TestNoSleep(t *testing.T) {
	used := map[string]bool{}
	calls(t, func(s *source, call *ast.CallExpr) {
		if s.test || s.generated || !isCall(call, "time", "Sleep") {
			return
		}
		if used[s.path] = true; sleepAllowed[s.path] == "" {
			t.Errorf("%s: nothing can call a time.Sleep off: use a timer in a select, or say in sleepAllowed why not", at(call))
		}
	})
	for path := range sleepAllowed {
		if !used[path] {
			t.Errorf("sleepAllowed names %s, which does not sleep", path)
		}
	}
}

// Pdeathsig is sent when the thread that forked ends, and an execve in place ends all but one (prctl(2)).
func TestNoPdeathsig(t *testing.T) {
	for _, s := range sources(t) {
		ast.Inspect(s.file, func(n ast.Node) bool {
			if id, ok := n.(*ast.Ident); ok && id.Name == "Pdeathsig" && !s.test {
				t.Errorf("%s: Pdeathsig follows the thread, not the process, so children would die of an upgrade", at(id))
			}
			return true
		})
	}
}

// calls calls f for every call in the module's own code.
func calls(t *testing.T, f func(*source, *ast.CallExpr)) {
	t.Helper()
	for _, s := range sources(t) {
		ast.Inspect(s.file, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				f(s, call)
			}
			return true
		})
	}
}

func isCall(call *ast.CallExpr, pkg, name string) bool {
	f, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || f.Sel.Name != name {
		return false
	}
	id, ok := f.X.(*ast.Ident)
	return ok && id.Name == pkg
}
