package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// measurement is the count over some files.
type measurement struct {
	comments, texts    count
	lines, longLines   int // of Go, outside tests
	functions, oneWord int // unexported, outside tests
	forbidden          int
	findings           []string // path:line: word
}

// count is the number of headless relatives in a number of words.
type count struct{ headless, words int }

func (c count) perThousand() float64 { return 1000 * ratioOf(c.headless, c.words) }

// addFinding adds a finding in a file.
func (m *measurement) addFinding(path string, line int, format string, args ...any) {
	m.findings = append(m.findings, fmt.Sprintf("%s:%d: ", path, line)+fmt.Sprintf(format, args...))
}

// measureFile counts one file. It skips a file of a kind that the package comment does not name.
func (m *measurement) measureFile(path string, source []byte) error {
	switch extension := filepath.Ext(path); {
	case extension == ".go":
		return m.measureGo(path, source)
	case extension == ".md", extension == ".txt":
		fenced := false // inside a code block
		m.measureLines(&m.texts, path, source, func(line string) string {
			fence := strings.HasPrefix(strings.TrimSpace(line), "```")
			if fenced = fenced != fence; fenced || fence {
				return ""
			}
			return line
		})
	case filepath.Base(path) == "Makefile", slices.Contains([]string{
		".yaml", ".yml", ".bicep", ".sh", ".py", ".js", ".mjs", ".ps1", ".psm1", ".toml",
	}, extension):
		m.measureLines(&m.comments, path, source, func(line string) string {
			if match := commentLine.FindStringSubmatch(line); match != nil {
				return match[1]
			}
			return ""
		})
	}
	return nil
}

func (m *measurement) measureGo(path string, source []byte) error {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	tests := strings.HasSuffix(path, "_test.go")
	lines := strings.Split(string(source), "\n")
	if tests {
		lines = nil
	}
	m.lines += len(lines)
	for i, line := range lines {
		if utf8.RuneCountInString(strings.ReplaceAll(line, "\t", "    ")) > 120 {
			m.longLines++
			m.addFinding(path, i+1, "above 120 columns: %s", strings.TrimSpace(line))
		}
	}
	for _, group := range file.Comments {
		m.scan(&m.comments, path, files.Position(group.Pos()).Line, group.Text())
	}
	ast.Inspect(file, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.ImportSpec:
			return false
		case *ast.FuncDecl:
			if name := node.Name.Name; !tests && !ast.IsExported(name) && name != "main" {
				m.functions++
				if strings.IndexFunc(name, unicode.IsUpper) < 0 {
					m.oneWord++
					m.addFinding(path, files.Position(node.Pos()).Line, "one word: %s", name)
				}
			}
		case *ast.BasicLit:
			if text, err := strconv.Unquote(node.Value); !tests && err == nil && node.Kind == token.STRING &&
				strings.Count(text, " ") > 2 {
				m.scan(&m.texts, path, files.Position(node.Pos()).Line, text)
			}
		}
		return true
	})
	return nil
}

// code matches the parts of a page or a comment that are not prose.
var code = regexp.MustCompile("`[^`\n]*`|https?://\\S+")

// commentLine matches a whole-line comment and captures its text.
var commentLine = regexp.MustCompile(`^\s*(?:#+|//+)\s?(.*)`)

// measureLines counts the prose that keep returns for each line of a source.
func (m *measurement) measureLines(c *count, path string, source []byte, keep func(line string) string) {
	var prose strings.Builder
	for line := range strings.Lines(string(source)) {
		prose.WriteString(keep(strings.TrimRight(line, "\r\n")) + "\n")
	}
	m.scan(c, path, 1, prose.String())
}

// token is one word of prose with the characters between it and the word before.
var wordToken = regexp.MustCompile(`[A-Za-zÀ-ÿ][A-Za-zÀ-ÿ'’-]*`)

// scan counts the words of text and its headless relatives into c, and the forbidden words into m. start is the line of
// text in path.
func (m *measurement) scan(c *count, path string, start int, text string) {
	text = code.ReplaceAllStringFunc(text, func(part string) string { return strings.Repeat("·", len(part)) })
	places := wordToken.FindAllStringIndex(text, -1)
	c.words += len(places)
	line := func(at int) int { return start + strings.Count(text[:at], "\n") }
	for i, place := range places {
		word := strings.ToLower(text[place[0]:place[1]])
		before, gap := "", "."
		if i > 0 {
			before, gap = strings.ToLower(text[places[i-1][0]:places[i-1][1]]), text[places[i-1][1]:place[0]]
		}
		if isHeadless(word, before, gap) && !isQuestion(text[place[1]:]) {
			c.headless++
			m.addFinding(path, line(place[0]), "headless: %s %s", before, word)
		}
	}
	for _, f := range forbidden {
		for _, place := range f.pattern.FindAllStringIndex(text, -1) {
			m.forbidden++
			m.addFinding(path, line(place[0]), "%q: write %s", text[place[0]:place[1]], f.replacement)
		}
	}
}

// isHeadless reports whether word starts a relative clause without a noun: "what", "whatever" and "whoever" anywhere,
// "nobody" and "somebody" as the agents they are not, "who" where the word before is no noun, "that of" and "those of".
func isHeadless(word, before, gap string) bool {
	switch word {
	case "what", "whatever", "whoever", "whom", "nobody", "somebody":
		return true
	case "who":
		return strings.ContainsAny(gap, ".,;:()—\n|·") && strings.TrimSpace(gap) != "" ||
			before == "" || strings.Contains(headWords, " "+before+" ")
	case "of":
		return before == "that" || before == "those" || before == "whose"
	}
	return false
}

// headWords are the words before "who" that are no noun.
const headWords = " of to for by on about from with is are say says tell tells know knows see ask asks and or but those " +
	"all decide decides out not one "

// isQuestion reports whether the sentence that rest continues ends with a question mark.
func isQuestion(rest string) bool {
	end := strings.IndexAny(rest, ".?\n|")
	return end >= 0 && rest[end] == '?'
}

// forbidden are words without an honest use here, each with its replacement.
var forbidden = []struct { //nolint:gochecknoglobals // a table that nothing writes to
	pattern     *regexp.Regexp
	replacement string
}{
	{regexp.MustCompile(`(?i)\bask(s|ed|ing)? again\b`), "retry"},
	{regexp.MustCompile(`(?i)\bmend(s|ed|ing)?\b`), "fix"},
	{regexp.MustCompile(`(?i)\brooms?\b(?: of (?:the|this) (?:program|code))`), "package"},
	{regexp.MustCompile(`(?i)\bseams?\b`), "interface or boundary"},
	{regexp.MustCompile(`(?i)\blet(s|ting)? in\b`), "authorise"},
	{regexp.MustCompile(`(?i)\btakes? the resource account off\b`), "remove the resource account from"},
	{regexp.MustCompile(`(?i)\bfor good\b`), "permanently"},
	{regexp.MustCompile(`(?i)\bwhat becomes? of\b`), "the result of"},
	{regexp.MustCompile(`(?i)\bbad answers?\b`), "invalid response"},
}
