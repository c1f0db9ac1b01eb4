package client

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"autopilot-unassign/internal/guid"
	"autopilot-unassign/internal/text"
)

// column is the meaning of a column's name. Of two columns with one purpose the one with the lower rank counts.
type column struct {
	purpose string
	rank    int
}

// columnNames are the names of the columns that count, reduced by plainName.
var columnNames = knownColumns() //nolint:gochecknoglobals // a table that nothing writes to

func knownColumns() map[string]column {
	known := map[string]column{}
	for purpose, ranks := range map[string][]string{
		"id": {"autopilotid autopilotdeviceid windowsautopilotdeviceid autopilotdeviceidentityid", "deviceid id"},
		// English, German, French, Spanish, Italian, Portuguese, Dutch and Scandinavian, Finnish, Polish, Czech,
		// Hungarian, Turkish, Russian, Japanese, Chinese, Korean; the last names are of inventories.
		"serial": {"serialnumber serial deviceserialnumber serialno serialnum serialnr sn seriennummer seriennr gerätenummer " +
			"numérodesérie numerodeserie nºdesérie nodesérie númerodeserie numerodiserie númerodesérie numerodisérie " +
			"serienummer serienr sarjanumero numerseryjny sériovéčíslo výrobníčíslo sorozatszám serinumarası serino " +
			"серийныйномер シリアル番号 シリアルナンバー 序列号 序列號 일련번호 serialnumber0 biosserialnumber hardwareserial"},
		"expected":  {"expected expectedaccount expecteduserprincipalname", "userprincipalname"},
		"resource":  {"expectedresourcename"},
		"before":    {"accountbefore"},
		"reference": {"reference"},
		"code":      {"code"},
		"outcome":   {"outcome"},
	} {
		for rank, names := range ranks {
			for name := range strings.FieldsSeq(names) {
				known[name] = column{purpose, rank}
			}
		}
	}
	return known
}

// plainName reduces the name of a column to its letters and digits in lower case, so that serial_number is "Serial
// number".
func plainName(name string) string {
	if !utf8.ValidString(name) { // Windows-1252, of which Latin-1 has the letters
		latin := make([]rune, len(name))
		for i := range len(name) {
			latin[i] = rune(name[i])
		}
		name = string(latin)
	}
	return strings.Map(func(c rune) rune {
		if !unicode.IsLetter(c) && !unicode.IsDigit(c) {
			return -1
		}
		return unicode.ToLower(c)
	}, name)
}

// columnOf returns the meaning of a column's name. ServiceNow puts the path to a field before it:
// cmdb_ci.serial_number.
func columnOf(name string) column {
	if known, ok := columnNames[plainName(name)]; ok {
		return known
	}
	return columnNames[plainName(name[strings.LastIndexByte(name, '.')+1:])]
}

// columns say where the columns that count are.
type columns struct {
	names   []string
	at      map[string]int // purpose → index
	width   int
	implied string // the column of expected accounts, if its name does not say that they are expected
	plain   bool   // the list has no header, and one id or serial number on each line
}

func (l *layout) findColumns(o ReadOptions) (columns, error) {
	c := columns{names: l.header, at: map[string]int{}, width: max(1, len(l.header)), plain: l.header == nil}
	if c.plain {
		if len(o.Columns) > 0 {
			return c, errors.New("it has no header, so -column names nothing in it")
		}
		return c, nil
	}
	ranks := map[string]int{}
	for i, name := range l.header {
		known := columnOf(name)
		if known.purpose == "" || o.Columns[known.purpose] != "" || known.purpose == "id" && o.By == "serial" ||
			known.purpose == "serial" && o.By == "id" {
			continue
		}
		other, twice := c.at[known.purpose]
		switch {
		case twice && (known.purpose == "code" || known.purpose == "outcome"):
		case twice && ranks[known.purpose] == known.rank:
			return c, fmt.Errorf("its columns %q and %q mean the same; choose with -column %s=NAME",
				shortenText(l.header[other]), shortenText(name), known.purpose)
		case !twice || known.rank < ranks[known.purpose]:
			c.at[known.purpose], ranks[known.purpose] = i, known.rank
		}
	}
	for purpose, name := range o.Columns {
		i, err := l.findColumn(name)
		if err != nil {
			return c, err
		}
		c.at[purpose] = i
	}
	if o.By == "id" && o.Columns["id"] == "" || o.By == "serial" && o.Columns["serial"] == "" {
		delete(c.at, map[string]string{"id": "serial", "serial": "id"}[o.By])
	}
	c.settleExpected(ranks["expected"], o)
	_, id := c.at["id"]
	_, serial := c.at["serial"]
	if !id && !serial {
		wanted := map[string]string{"": "deviceId or serialNumber", "id": "deviceId", "serial": "serialNumber"}[o.By]
		return c, fmt.Errorf("no column names a device; one must be called %s, or be chosen with -column serial=NAME. Its columns are %s", wanted, l.listColumns())
	}
	return c, nil
}

// settleExpected drops an implied column of expected accounts beside an explicit one, and remembers its name
// otherwise.
func (c *columns) settleExpected(rank int, o ReadOptions) {
	_, resource := c.at["resource"]
	before, found := c.at["before"]
	switch i, ok := c.at["expected"]; {
	case o.Columns["expected"] != "":
		delete(c.at, "resource")
		delete(c.at, "before")
	case ok && rank > 0 && (resource || found):
		delete(c.at, "expected")
	case ok && rank > 0:
		c.implied = c.names[i]
	}
	if _, still := c.at["before"]; still {
		c.implied = c.names[before]
	}
}

func (l *layout) findColumn(name string) (int, error) {
	for _, same := range []func(string) bool{
		func(other string) bool { return strings.TrimSpace(other) == name },
		func(other string) bool { return plainName(other) != "" && plainName(other) == plainName(name) },
	} {
		for i, other := range l.header {
			if same(other) {
				return i, nil
			}
		}
	}
	return 0, fmt.Errorf("it has no column %q. Its columns are %s", shortenText(name), l.listColumns())
}

// listColumns returns the names of the columns for a person.
func (l *layout) listColumns() string {
	var names []string
	for _, name := range l.header[:min(maxShown, len(l.header))] {
		names = append(names, fmt.Sprintf("%q", shortenText(name)))
	}
	text := strings.Join(names, ", ")
	if more := len(l.header) - maxShown; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// cellOf returns the cell of a row in the column with a purpose, "" if there is none. It does not keep the rest of
// the row.
func (c columns) cellOf(cells []string, purpose string) string {
	i, ok := c.at[purpose]
	if !ok || i >= len(cells) {
		return ""
	}
	return strings.Clone(strings.TrimSpace(text.UnguardCell(strings.TrimSpace(cells[i]))))
}

func (c columns) readRow(cells []string) Row {
	if c.plain {
		value := strings.Clone(strings.TrimSpace(text.UnguardCell(strings.TrimSpace(cells[0]))))
		if _, err := guid.Parse(value); err == nil {
			return Row{ID: strings.ToLower(value)}
		}
		return Row{Serial: value}
	}
	row := Row{
		ID: strings.ToLower(c.cellOf(cells, "id")), Serial: c.cellOf(cells, "serial"),
		Reference: c.cellOf(cells, "reference"),
	}
	row.Expected = parseAccount(c.cellOf(cells, "expected"))
	if row.Expected == (Expected{}) {
		row.Expected.ResourceName = c.cellOf(cells, "resource")
	}
	if row.Expected == (Expected{}) {
		row.Expected = parseAccount(c.cellOf(cells, "before"))
	}
	return row
}
