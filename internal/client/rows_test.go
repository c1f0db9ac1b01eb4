package client

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

const (
	oneID   = "6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a01"
	otherID = "6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a02"
	contoso = "https://contoso.example/api/unassign"
)

func TestReadRows(t *testing.T) {
	for name, test := range map[string]struct {
		text, by string
		rows     []Row
		format   Format
	}{
		"plain":                  {"deviceId\n" + oneID + "\n", "", []Row{{Line: 2, ID: oneID}}, Format{Comma: ','}},
		"any order and case":     {"Reference,EXPECTED Account,Model,serial_number\nRITM1,room@x.com,HP,5CG1\n", "", []Row{{2, "", "5CG1", "room@x.com", "RITM1"}}, Format{Comma: ','}},
		"European Excel":         {"\ufeffSerial number;Device ID;userPrincipalName\r\n;" + strings.ToUpper(oneID) + ";\r\n5CG1;;room.fjord\r\n", "", []Row{{Line: 2, ID: oneID}, {Line: 3, Serial: "5CG1", Expected: "room.fjord"}}, Format{';', true}},
		"Excel says it":          {"sep=;\r\nserial;note\r\n5CG1;a,b,c\r\n", "", []Row{{Line: 3, Serial: "5CG1"}}, Format{Comma: ';'}},
		"PowerShell 5.1":         {"#TYPE System.Management.Automation.PSCustomObject\n\"id\",\"groupTag\"\n\"" + oneID + "\",\"A\"\n", "", []Row{{Line: 3, ID: oneID}}, Format{Comma: ','}},
		"tabs":                   {"serial\tid\n5CG1\t\n", "", []Row{{Line: 2, Serial: "5CG1"}}, Format{Comma: '\t'}},
		"separators in quotes":   {"serial,\"a;b;c;d\"\n5CG1,x\n", "", []Row{{Line: 2, Serial: "5CG1"}}, Format{Comma: ','}},
		"no line end":            {"serial\n5CG1", "", []Row{{Line: 2, Serial: "5CG1"}}, Format{Comma: ','}},
		"empty rows":             {"\nserial,model\n\n,\n5CG1,\n , \n", "", []Row{{Line: 5, Serial: "5CG1"}}, Format{Comma: ','}},
		"a short row":            {"model,serial,note\nHP,5CG1\n", "", []Row{{Line: 2, Serial: "5CG1"}}, Format{Comma: ','}},
		"a cell of two lines":    {"note,serial\n\"a\nb\",5CG1\nc,5CG2\n", "", []Row{{Line: 2, Serial: "5CG1"}, {Line: 4, Serial: "5CG2"}}, Format{Comma: ','}},
		"both, by id":            {"id,serial\n" + oneID + ",5CG1\n", "id", []Row{{Line: 2, ID: oneID}}, Format{Comma: ','}},
		"both, by serial":        {"id,serial\n" + oneID + ",5CG1\n", "serial", []Row{{Line: 2, Serial: "5CG1"}}, Format{Comma: ','}},
		"cells against formulas": {"serial\n\"=\"\"0123\"\"\"\n'-ABC\n-ABD\n''X\n", "", []Row{{Line: 2, Serial: "0123"}, {Line: 3, Serial: "-ABC"}, {Line: 4, Serial: "-ABD"}, {Line: 5, Serial: "'X"}}, Format{Comma: ','}},
		"spaces":                 {"serial\n  PF3 0123 \n", "", []Row{{Line: 2, Serial: "PF3 0123"}}, Format{Comma: ','}},
		"Latin-1 beside":         {"serial,r\xf8m\n5CG1,\xe5\n", "", []Row{{Line: 2, Serial: "5CG1"}}, Format{Comma: ','}},
	} {
		table, err := ReadRows(strings.NewReader(test.text), test.by)
		if err != nil || len(table.Invalid) > 0 || len(table.Notes) > 0 {
			t.Errorf("%s: %v, %+v", name, err, table)
			continue
		}
		if !slices.Equal(table.Rows, test.rows) || table.Format != test.format {
			t.Errorf("%s: %+v %+v", name, table.Rows, table.Format)
		}
	}
}

func TestReadRowsRefusesAFile(t *testing.T) {
	for name, test := range map[string]struct{ text, by, want string }{
		"empty":               {"", "", "it is empty"},
		"a BOM alone":         {"\ufeff", "", "it is empty"},
		"unknown columns":     {"Name;Owner\nx;y\n", "", `one must be called deviceId or serialNumber. Its columns are "Name", "Owner"`},
		"no such column":      {"serial\nx\n", "id", "one must be called deviceId. Its columns are \"serial\""},
		"no header":           {oneID + "\n", "", "no column names a device"},
		"a column twice":      {"id,Device ID\n", "", `its columns "id" and "Device ID" mean the same`},
		"UTF-16":              {"\xff\xfes\x00", "", "UTF-16"},
		"binary":              {"PK\x03\x04\x00\"\n", "", "its first row is no header"},
		"a quote not closed":  {"serial\n\"" + strings.Repeat("x\n", 2<<20), "", "is a quote not closed?"},
		"an endless header":   {strings.Repeat("x", 1<<20), "", "its first line is no header"},
		"very many columns":   {strings.Repeat("x,", 1000) + "y\n", "", "and 951 more"},
		"one device too many": {"serial\n" + manySerials(maxRows+1), "", "more than 100000 devices"},
	} {
		if table, err := ReadRows(strings.NewReader(test.text), test.by); err == nil || !strings.Contains(err.Error(), test.want) || len(err.Error()) > 8000 {
			t.Errorf("%s: %v, %v; want %q", name, table, err, test.want)
		}
	}
}

func manySerials(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "SN-%d\n", i)
	}
	return b.String()
}

// All rows are looked at, whatever is wrong with some.
func TestReadRowsTellsOfRows(t *testing.T) {
	text := strings.Join([]string{
		"id,serial,expected,reference",
		"x,,,",
		",,room@x.com,",
		oneID + ",5CG1,,",
		",1.23457E+11,,",
		",5CG\u00d8,,",
		",---,,",
		"," + strings.Repeat("x", 129) + ",,",
		",5CG2,,,,",
		",5CG3," + "a\u200bb,",
		",5CG4,," + strings.Repeat("x", 129),
		",5CG5,room@x.com,",
		",5cg5,ROOM@x.com,RITM2",
		",5CG5,other@x.com,",
		oneID + ",,,",
		strings.ToUpper(oneID) + ",,,",
		"{" + otherID + "},,,",
		`,"5CG6"x,,`,
		",5CG7,,",
	}, "\n")
	table, err := ReadRows(strings.NewReader(text), "")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`line 2: "x" is not the id`, "line 3: it names no device", "line 4: it has an id and a serial number; -by id or -by serial", `line 5: "1.23457E+11" is what a spreadsheet makes`,
		"line 6: \"5CG\u00d8\" is no serial number", `line 7: "---" is no serial number`, "line 8: ", "line 9: it has 6 cells and the header 4", "line 10: ", "line 11: ",
		"line 14: it names the device of line 12 and expects another account", "line 17: ", "line 18: ",
	}
	if len(table.Invalid) != len(want) {
		t.Fatalf("%q", table.Invalid)
	}
	for i := range want {
		if !strings.HasPrefix(table.Invalid[i], want[i]) {
			t.Errorf("%q, want %q", table.Invalid[i], want[i])
		}
	}
	if len(table.Rows) != 2 || len(table.Notes) != 2 || table.Notes[0] != "line 13 names the device of line 12 again; it is asked for once" {
		t.Errorf("%+v", table)
	}
}

// A device that comes twice is asked for once. What one of its rows expects counts, wherever the others expect nothing.
func TestReadRowsTakesTheStricter(t *testing.T) {
	table, err := ReadRows(strings.NewReader("serial,expected\nA,room@x.com\nB,\nC,\na,\nb,hub@x.com\nc,\nB,\nb,Hub@x.com\nB,other@x.com\n"), "")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(table.Rows, []Row{{Line: 2, Serial: "A", Expected: "room@x.com"}, {Line: 3, Serial: "B", Expected: "hub@x.com"}, {Line: 4, Serial: "C"}}) {
		t.Errorf("%+v", table.Rows)
	}
	const stricter = ", with the account that one of them expects"
	if want := []string{
		"line 5 names the device of line 2 again; it is asked for once" + stricter, "line 6 names the device of line 3 again; it is asked for once" + stricter,
		"line 7 names the device of line 4 again; it is asked for once", "line 8 names the device of line 3 again; it is asked for once" + stricter,
		"line 9 names the device of line 3 again; it is asked for once",
	}; !slices.Equal(table.Notes, want) {
		t.Errorf("%q", table.Notes)
	}
	if !slices.Equal(table.Invalid, []string{"line 10: it names the device of line 3 and expects another account"}) {
		t.Errorf("%q", table.Invalid)
	}
}

// A long export with wide rows is not kept in memory, but for what counts.
func TestReadRowsIsFrugal(t *testing.T) {
	const rows, width = 10_000, 4000
	read, write := io.Pipe()
	go func() {
		fmt.Fprintln(write, "serialNumber,notes")
		wide := strings.Repeat("x", width)
		for i := range rows {
			fmt.Fprintf(write, "SN-%d,%s\n", i, wide)
		}
		_ = write.Close()
	}()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	table, err := ReadRows(read, "")
	if err != nil || len(table.Rows) != rows {
		t.Fatalf("%d rows, %v", len(table.Rows), err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(table)
	if kept := int64(after.HeapAlloc) - int64(before.HeapAlloc); kept > 8<<20 {
		t.Errorf("%d bytes are kept of a file of %d", kept, rows*width)
	}
}

// Whatever a file has in it, what is read from it is valid, and comes back from a file of results as it was, in cells that
// no spreadsheet calculates.
func FuzzReadRows(f *testing.F) {
	for _, seed := range []string{"serial\n=1+1\n", "id;serial\n;-A\n", "\ufeffserial\r\n'@A\r\n", "serial\n\"a", "serial\n+1,2\n", "sep=;\nid\n" + oneID} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		table, err := ReadRows(strings.NewReader(text), "")
		if err != nil {
			return
		}
		for _, row := range table.Rows {
			if (row.ID == "") == (row.Serial == "") || row.ID != "" && !isGUID(row.ID) || row.Serial != strings.TrimSpace(row.Serial) || row.Serial != "" && !isSerialNumber(row.Serial) {
				t.Fatalf("%+v", row)
			}
			result := Result{Line: row.Line, DeviceID: row.ID, SerialNumber: row.Serial, Status: 200, Code: "unassigned", Message: row.Reference, Expected: row.Expected}
			var b bytes.Buffer
			if err := new(Results{format: table.Format}).write(&b, [][]string{result.cells()}); err != nil {
				t.Fatal(err)
			}
			records := csv.NewReader(&b)
			records.Comma = table.Format.Comma
			cells, err := records.Read()
			if err != nil {
				t.Fatal(err)
			}
			for _, cell := range cells {
				if cell != "" && strings.ContainsRune(formulaStarts, rune(cell[0])) {
					t.Fatalf("%q is a formula", cell)
				}
			}
			if got, err := resultOf(cells); err != nil || got != result {
				t.Fatalf("%+v came back as %+v, %v", result, got, err)
			}
		}
	})
}

// A file of results is found again whatever has happened to it, and refused if it is another.
func TestOpenResults(t *testing.T) {
	path := filepath.Join(t.TempDir(), "devices.results.csv")
	r, err := OpenResults(path, Format{';', true}, contoso, false)
	if err != nil {
		t.Fatal(err)
	}
	first := Result{Line: 3, DeviceID: oneID, SerialNumber: "=5CG1", Status: 503, Code: "device_locked", Message: "a; \"b\"\nc", Outcome: "not_done", Expected: "room@x.com", Deployment: contoso}
	second := Result{Line: 2, DeviceID: otherID, Status: 404, Code: "device_not_found", Outcome: "not_done", Deployment: contoso}
	if err := r.Add(first, second); err != nil {
		t.Fatal(err)
	}
	first.Status, first.Code, first.Outcome = 200, "unassigned", "done"
	if err := r.Add(first); err != nil {
		t.Fatal(err)
	}
	// The process was killed here, in the middle of a row.
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(f, "7;"+oneID+";\"5C")
	_ = f.Close()

	r, err = OpenResults(path, Format{Comma: ','}, contoso, false)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := r.Of(Row{Line: 99, Serial: "=5cg1", Expected: "Room@x.com"}); !ok || got != first {
		t.Errorf("by serial number: %+v", got)
	}
	if got, ok := r.Of(Row{ID: otherID}); !ok || got != second {
		t.Errorf("by id: %+v", got)
	}
	if got, ok := r.Of(Row{Serial: "=5CG1"}); ok {
		t.Errorf("expected of another account: %+v", got)
	}
	if _, ok := r.Of(Row{ID: oneID, Expected: "room@x.com"}); ok {
		t.Error("a result of a serial number is taken for one of an id")
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// Wherever the last row is cut off, the file is one of this deployment.
	for end := bytes.LastIndexByte(bytes.TrimSpace(whole), '\n') - 2; end < len(whole); end++ {
		if err := os.WriteFile(path, whole[:end], 0o600); err != nil {
			t.Fatal(err)
		}
		if cut, err := OpenResults(path, Format{Comma: ','}, contoso, false); err != nil {
			t.Errorf("%q: %v", whole[:end], err)
		} else if err := cut.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	want := "line,deviceId,serialNumber,status,code,message,outcome,requestId,graphRequestId,time,deployment,expected\n2," + otherID + ",,404,device_not_found,,not_done,,,," + contoso + ",\n3," + oneID + ",'=5CG1,200,unassigned,\"a; \"\"b\"\"\nc\",done,,,," + contoso + ",room@x.com\n"
	if err != nil || string(text) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, text, want)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("there is more than the results: %v", entries)
	}

	for name, text := range map[string]string{
		"another file":       "serial,model\n5CG1,HP\n",
		"a torn row inside":  want + "7," + oneID + "\n8," + oneID + ",,200,,,,,,,,\n",
		"a row of nothing":   want + "7,,,200,,,,,,,,\n",
		"a deployment's":     want + "8," + oneID + ",,200,,,,,,,https://staging.example/api/unassign,\n",
		"a line that is not": want + "x," + oneID + ",,200,,,,,,,,\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenResults(path, Format{Comma: ','}, contoso, false); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		if after, _ := os.ReadFile(path); string(after) != text {
			t.Errorf("%s was changed", name)
		}
	}
}

// A file that was written before results said what was expected and where is read as saying nothing of it.
func TestOpenResultsWithoutTheLastColumns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "devices.results.csv")
	if err := os.WriteFile(path, []byte("line,deviceId,serialNumber,status,code,message,outcome,requestId,graphRequestId,time\n2,"+oneID+",,200,unassigned,,done,,,\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := OpenResults(path, Format{Comma: ','}, contoso, false)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := r.Of(Row{ID: oneID}); !ok || got != (Result{Line: 2, DeviceID: oneID, Status: 200, Code: "unassigned", Outcome: "done"}) {
		t.Errorf("%+v, %t", got, ok)
	}
	if _, ok := r.Of(Row{ID: oneID, Expected: "room@x.com"}); ok {
		t.Error("a device of which nothing was expected counts as answered")
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(path); err != nil || !strings.HasSuffix(string(text), ",time,deployment,expected\n2,"+oneID+",,200,unassigned,,done,,,,,\n") {
		t.Errorf("%v\n%s", err, text)
	}
}

// The same deployment is known whatever way its address is written, and its key is not kept.
func TestDeploymentOf(t *testing.T) {
	for _, address := range []string{contoso, contoso + "/", "https://Contoso.example/api/unassign?code=c2VjcmV0#x", "https://u:c2VjcmV0@contoso.example/api/unassign"} {
		if got := DeploymentOf(address); got != contoso {
			t.Errorf("%s is %s", address, got)
		}
	}
}

func TestStanding(t *testing.T) {
	for want, results := range map[standing][]Result{
		succeeded: {{Status: 200}, {Status: 204}},
		refused:   {{Status: 400}, {Status: 403}, {Status: 404}, {Status: 409}, {Status: 422}},
		open:      {{}, {Status: 408}, {Status: 429}, {Status: 500}, {Status: 502}, {Status: 503}, {Status: 504}, {Status: 401}, {Status: 424}, {Status: 409, Outcome: "unknown"}, {Status: 302}},
	} {
		for _, result := range results {
			if got := result.standing(); got != want {
				t.Errorf("%+v stands at %d, want %d", result, got, want)
			}
		}
	}
}

// A request has one reference, at most 20 devices, and a body that the function takes.
func TestBatch(t *testing.T) {
	l := &List{Reference: "RITM1"}
	long := strings.Repeat("\U0001f600", 256)
	for name, test := range map[string]struct {
		row  func(i int) Row
		want int
	}{
		"plain":              {func(i int) Row { return Row{Serial: fmt.Sprint(i)} }, 20},
		"its own reference":  {func(i int) Row { return Row{Serial: fmt.Sprint(i), Reference: fmt.Sprint(i / 3)} }, 3},
		"the same reference": {func(i int) Row { return Row{Serial: fmt.Sprint(i), Reference: []string{"", "RITM1"}[i%2]} }, 20},
		"long accounts":      {func(i int) Row { return Row{Serial: fmt.Sprint(i), Expected: long} }, 14},
	} {
		var rows []Row
		for i := range 30 {
			rows = append(rows, test.row(i))
		}
		n := l.batch(rows)
		order := Order{Reference: strings.Repeat("\U0001f600", 128)}
		for _, row := range rows[:n] {
			order.Devices = append(order.Devices, target(row))
		}
		if body, err := encode(order); n != test.want || err != nil || len(body) > 16<<10 {
			t.Errorf("%s: %d rows in %d bytes, %v; want %d", name, n, len(body), err, test.want)
		}
	}
	if n := l.batch([]Row{{ID: oneID}}); n != 1 {
		t.Errorf("the last row: %d", n)
	}
}
