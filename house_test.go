// Package outrelay_test holds the rules of the house that no compiler knows:
// which package may import which, and what every package has.
package outrelay_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

const module = "github.com/outrelay/outrelay"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A pkg is what go list says about one package of the module.
type pkg struct {
	ImportPath   string
	Dir          string
	GoFiles      []string
	TestGoFiles  []string
	XTestGoFiles []string
	Imports      []string // by its own files, tests left out
	Deps         []string // all that comes into a program with it
}

// house lists the packages of the module.
func house(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,TestGoFiles,XTestGoFiles,Imports,Deps", "./...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v", cmd, err)
	}
	var pkgs []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the output of %v: %v", cmd, err)
		}
		pkgs = append(pkgs, p)
	}
	if len(pkgs) < 5 {
		t.Fatalf("%v lists %d packages; this test looks in the wrong place", cmd, len(pkgs))
	}
	return pkgs
}

// within says whether path is one of roots or lies below one.
func within(path string, roots ...string) bool {
	return slices.ContainsFunc(roots, func(root string) bool {
		return path == root || strings.HasPrefix(path, root+"/")
	})
}

func ours(names ...string) []string {
	paths := make([]string, len(names))
	for i, name := range names {
		paths[i] = module + "/" + name
	}
	return paths
}

// Arrows go down only: gateway to broker to schemas, subscriber to schemas, cmd
// and bench to all.
func TestArrows(t *testing.T) {
	nats := []string{"github.com/nats-io"}
	tests := []struct {
		name     string
		from     []string // these packages and all below them
		but      []string // without these
		to       []string // must not have these
		directly bool     // import to themselves; else: have it come with them by any way
		reason   string
	}{
		{
			name: "schemas has nothing of ours", from: ours("schemas"),
			to:     ours("broker", "gateway", "subscriber", "cmd", "bench", "deploy"),
			reason: "both sides of the wire import the contract; what it imported, both would carry",
		},
		{
			name: "schemas carries no NATS", from: ours("schemas"), to: nats,
			reason: "a client of the contract has no broker inside",
		},
		{
			name: "broker has nothing above it", from: ours("broker"),
			to:     ours("gateway", "subscriber", "cmd", "bench", "deploy"),
			reason: "the broker is events in and events out; who asks is not its business",
		},
		{
			name: "broker knows no HTTP", from: ours("broker"), to: []string{"net/http"}, directly: true,
			reason: "requests become calls in the gateway, so that every way in has the same promises",
		},
		{
			name: "gateway has nothing above or beside it", from: ours("gateway"),
			to:     ours("subscriber", "cmd", "bench", "deploy"),
			reason: "the public edge can't depend on its own clients or on the command around it",
		},
		{
			name: "subscriber speaks the wire", from: ours("subscriber"),
			to:     ours("broker", "gateway", "cmd", "bench", "deploy"),
			reason: "it runs behind a customer's firewall and is a client like any other",
		},
		{
			name: "subscriber carries no NATS", from: ours("subscriber"), to: nats,
			reason: "no NATS server comes onto a customer's machine with a client library",
		},
		{
			name: "only broker imports NATS", from: []string{module}, but: ours("broker"), to: nats, directly: true,
			reason: "isolation is a subject prefix that the broker alone writes; a second writer would break it",
		},
		{
			name: "nobody imports the commands", from: []string{module}, but: ours("cmd", "bench", "deploy"),
			to:     ours("cmd", "bench", "deploy"),
			reason: "wiring, flags and printing are the top of the house",
		},
	}
	pkgs := house(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			seen := false
			for _, p := range pkgs {
				if !within(p.ImportPath, tt.from...) || within(p.ImportPath, tt.but...) {
					continue
				}
				seen = true
				has := p.Deps
				if tt.directly {
					has = p.Imports
				}
				for _, dep := range has {
					if within(dep, tt.to...) && !within(dep, p.ImportPath) {
						t.Errorf("%s has %s in its imports: %s", p.ImportPath, dep, tt.reason)
					}
				}
			}
			if !seen {
				t.Errorf("no package is under %v any more; the rule protects nothing", tt.from)
			}
		})
	}
}

// parse reads files of a package, comments included.
func parse(t *testing.T, dir string, names []string) []*ast.File {
	t.Helper()
	var files []*ast.File
	for _, name := range names {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, name), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

// Each package says what it is for, in one place.
func TestPackageComments(t *testing.T) {
	for _, p := range house(t) {
		if len(p.GoFiles) == 0 {
			continue
		}
		comments := 0
		for _, f := range parse(t, p.Dir, p.GoFiles) {
			if f.Doc != nil {
				comments++
			}
		}
		if comments != 1 {
			t.Errorf("%s has %d package comments, want 1", p.ImportPath, comments)
		}
	}
}

// A goroutine that outlives a package's tests fails them, in every package.
func TestLeakGuards(t *testing.T) {
	for _, p := range house(t) {
		guarded := false
		for _, f := range parse(t, p.Dir, append(p.TestGoFiles, p.XTestGoFiles...)) {
			for _, d := range f.Decls {
				if d, ok := d.(*ast.FuncDecl); ok && d.Name.Name == "TestMain" {
					guarded = guarded || uses(d, "goleak")
				}
			}
		}
		if !guarded {
			t.Errorf("%s has no TestMain with goleak: goroutines that its tests leave behind go unseen", p.ImportPath)
		}
	}
}

// uses says whether a function refers to an imported package by this name.
func uses(d *ast.FuncDecl, name string) bool {
	found := false
	ast.Inspect(d, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && x.Name == name {
				found = true
			}
		}
		return !found
	})
	return found
}

// A skipped test proves nothing, and its silence looks like a pass.
func TestNothingSkips(t *testing.T) {
	for _, p := range house(t) {
		for i, f := range parse(t, p.Dir, append(p.TestGoFiles, p.XTestGoFiles...)) {
			ast.Inspect(f, func(n ast.Node) bool {
				if s, ok := n.(*ast.SelectorExpr); ok && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, s.Sel.Name) {
					if x, ok := s.X.(*ast.Ident); ok && (x.Name == "t" || x.Name == "b" || x.Name == "f") {
						t.Errorf("%s: a test file (number %d) calls %s.%s", p.ImportPath, i, x.Name, s.Sel.Name)
					}
				}
				return true
			})
		}
	}
}

// Every line of the README's table of promises names its tests, and they exist.
func TestPromisesHaveTests(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(readme), "\n## Promises\n")
	if !ok {
		t.Fatal("README.md has no section Promises")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	link := regexp.MustCompile("\\[`((?:Test|Fuzz)\\w+)`\\]\\(([^)]+_test\\.go)\\)")
	rows := 0
	for line := range strings.Lines(section) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| promise ") {
			continue
		}
		rows++
		named := link.FindAllStringSubmatch(line, -1)
		if len(named) == 0 {
			t.Errorf("this promise names no test: %s", line)
		}
		for _, n := range named {
			source, err := os.ReadFile(n[2])
			if err != nil {
				t.Errorf("%s is said to be in %s: %v", n[1], n[2], err)
			} else if !strings.Contains(string(source), "\nfunc "+n[1]+"(") {
				t.Errorf("%s has no %s", n[2], n[1])
			}
		}
	}
	if rows < 5 {
		t.Errorf("the table of promises has %d lines; this test reads it wrongly", rows)
	}
}
