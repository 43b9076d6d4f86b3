package docscheck

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// sources are the packages that documents may name, and where they are.
var sources = map[string]string{
	"chancery":  "../..",
	"merkle":    "../../merkle",
	"tlog":      "../../merkle/tlog",
	"logs":      "../../appliance/logs",
	"tpm":       "../../tpm",
	"mesh":      "../../agent/mesh",
	"anchor":    "../../agent/anchor",
	"evidence":  "../../appliance/evidence",
	"authority": "../../appliance/authority",
	"gossip":    "../../agent/gossip",
	"state":     "../../agent/state",
	"run":       "../../agent/run",
	"api":       "../../appliance/api",
}

// A source is what a package declares, unexported names included.
type source struct {
	constants map[string]ast.Expr
	variables map[string]ast.Expr
	functions map[string]*ast.FuncDecl // methods as Type.Method
	types     map[string]bool
}

func parseSources(t *testing.T) map[string]source {
	t.Helper()
	all := map[string]source{}
	for name, dir := range sources {
		all[name] = parseSource(t, dir)
	}
	return all
}

func parseSource(t *testing.T, dir string) source {
	t.Helper()
	s := source{map[string]ast.Expr{}, map[string]ast.Expr{}, map[string]*ast.FuncDecl{}, map[string]bool{}}
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files in %s, %v", len(files), dir, err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		s.add(f)
	}
	return s
}

func (s source) add(f *ast.File) {
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			s.functions[receiver(d)+d.Name.Name] = d
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					s.types[spec.Name.Name] = true
				case *ast.ValueSpec:
					into := s.constants
					if d.Tok == token.VAR {
						into = s.variables
					}
					for i, n := range spec.Names {
						into[n.Name] = nil
						if i < len(spec.Values) {
							into[n.Name] = spec.Values[i]
						}
					}
				}
			}
		}
	}
}

func receiver(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return ""
	}
	of := d.Recv.List[0].Type
	if star, ok := of.(*ast.StarExpr); ok {
		of = star.X
	}
	if id, ok := of.(*ast.Ident); ok {
		return id.Name + "."
	}
	return ""
}

// declares tells whether the package has something of the name: a constant,
// variable, type, function or Type.Method.
func (s source) declares(name string) bool {
	_, isConstant := s.constants[name]
	_, isVariable := s.variables[name]
	_, isFunction := s.functions[name]
	return isConstant || isVariable || isFunction || s.types[name]
}

// value evaluates the constant of the name.
func (s source) value(name string) (constant.Value, error) {
	e, ok := s.constants[name]
	if !ok || e == nil {
		return nil, fmt.Errorf("no constant %s with a value of its own", name)
	}
	return s.eval(e)
}

var units = map[string]time.Duration{"Second": time.Second, "Minute": time.Minute, "Hour": time.Hour}

// eval knows the expressions that constants of these packages are made of.
func (s source) eval(e ast.Expr) (constant.Value, error) {
	switch e := e.(type) {
	case *ast.BasicLit:
		return constant.MakeFromLiteral(e.Value, e.Kind, 0), nil
	case *ast.ParenExpr:
		return s.eval(e.X)
	case *ast.Ident:
		return s.value(e.Name)
	case *ast.CallExpr: // a conversion
		if len(e.Args) == 1 {
			return s.eval(e.Args[0])
		}
	case *ast.SelectorExpr:
		if unit, ok := units[e.Sel.Name]; ok {
			return constant.MakeInt64(int64(unit)), nil
		}
	case *ast.BinaryExpr:
		x, err := s.eval(e.X)
		if err != nil {
			return nil, err
		}
		y, err := s.eval(e.Y)
		if err != nil {
			return nil, err
		}
		if e.Op == token.SHL {
			n, _ := constant.Uint64Val(y)
			return constant.Shift(x, e.Op, uint(n)), nil
		}
		return constant.BinaryOp(x, e.Op, y), nil
	}
	return nil, fmt.Errorf("a constant that is a %T", e)
}

// oid evaluates the object identifier of the name, in dots.
func (s source) oid(name string) (string, error) {
	lit, ok := s.variables[name].(*ast.CompositeLit)
	if !ok {
		return "", fmt.Errorf("no object identifier %s", name)
	}
	var arcs []string
	for _, e := range lit.Elts {
		v, err := s.eval(e)
		if err != nil {
			return "", err
		}
		arcs = append(arcs, v.ExactString())
	}
	return strings.Join(arcs, "."), nil
}

// contains tells whether the function has the string as a literal.
func (s source) contains(function, text string) bool {
	f, ok := s.functions[function]
	return ok && slices.Contains(literals(f), text)
}

// literals returns the strings that are written out in a function.
func literals(f *ast.FuncDecl) (list []string) {
	ast.Inspect(f, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			list = append(list, constant.StringVal(constant.MakeFromLiteral(lit.Value, lit.Kind, 0)))
		}
		return true
	})
	return list
}

// goFiles calls f with every Go file of the module.
func goFiles(t *testing.T, f func(path string)) {
	t.Helper()
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(path, ".go") {
			f(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
