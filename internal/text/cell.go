package text

import "strings"

// The characters with which a spreadsheet takes a cell for a formula, and the characters behind which it may
// begin a cell, with any separator.
const (
	formulaStarts = "=+-@\t\r\n"
	cellEnds      = ",;|\t\r\n"
)

// GuardCell returns a text as a cell that no spreadsheet takes for a formula: it puts an apostrophe before each
// character that could start one, and before each apostrophe in such a place. UnguardCell undoes it.
func GuardCell(s string) string {
	if !strings.ContainsAny(s, formulaStarts+"'") {
		return s
	}
	var b strings.Builder
	start := true
	for _, c := range s {
		if start && strings.ContainsRune(formulaStarts+"'", c) {
			b.WriteByte('\'')
		}
		b.WriteRune(c)
		start = strings.ContainsRune(cellEnds, c)
	}
	return b.String()
}

// GuardCells returns cells in valid UTF-8, each as GuardCell returns it.
func GuardCells(cells ...string) []string {
	for i, cell := range cells {
		cells[i] = GuardCell(strings.ToValidUTF8(cell, "\ufffd"))
	}
	return cells
}

// UnguardCell undoes GuardCell. It also unwraps ="text", as some exports keep a spreadsheet from reading numbers.
func UnguardCell(s string) string {
	if inner, ok := strings.CutPrefix(s, `="`); ok && strings.HasSuffix(inner, `"`) {
		return strings.TrimSpace(strings.TrimSuffix(inner, `"`))
	}
	if !strings.Contains(s, "'") {
		return s
	}
	var b strings.Builder
	start := true
	for i := 0; i < len(s); i++ {
		if start && s[i] == '\'' && i+1 < len(s) && strings.IndexByte(formulaStarts+"'", s[i+1]) >= 0 {
			i++
		}
		b.WriteByte(s[i])
		start = strings.IndexByte(cellEnds, s[i]) >= 0
	}
	return b.String()
}
