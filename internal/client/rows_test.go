package client

import (
	"bytes"
	"encoding/binary"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"autopilot-unassign/graph"
)

const (
	oneID   = "6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a01"
	otherID = "6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a02"
	contoso = "https://contoso.example/api/unassign"
)

func TestReadRows(t *testing.T) {
	t.Parallel()
	comma := Format{Comma: ','}
	upn, resource := func(s string) Expected { return Expected{UserPrincipalName: s} }, func(s string) Expected { return Expected{ResourceName: s} }
	serial := func(lines ...int) (rows []Row) {
		for i, line := range lines {
			rows = append(rows, Row{Line: line, Serial: fmt.Sprintf("5CG%d", i+1)})
		}
		return rows
	}
	for name, test := range map[string]struct {
		text    string
		options ReadOptions
		rows    []Row
		format  Format
	}{
		"plain":                      {"deviceId\n" + oneID + "\n", ReadOptions{}, []Row{{Line: 2, ID: oneID}}, comma},
		"any order and case":         {"Reference,EXPECTED Account,Model,serial_number\nRITM1,room@x.com,HP,5CG1\n", ReadOptions{}, []Row{{2, "", "5CG1", upn("room@x.com"), "RITM1"}}, comma},
		"European Excel":             {"\ufeffSerial number;Device ID;expected\r\n;" + strings.ToUpper(oneID) + ";\r\n5CG1;;room.fjord\r\n", ReadOptions{}, []Row{{Line: 2, ID: oneID}, {Line: 3, Serial: "5CG1", Expected: resource("room.fjord")}}, Format{';', true}},
		"Excel says it":              {"sep=;\r\nserial;note\r\n5CG1;a,b,c\r\n", ReadOptions{}, serial(3), Format{Comma: ';'}},
		"PowerShell 5.1":             {"#TYPE System.Management.Automation.PSCustomObject\n\"id\",\"groupTag\"\n\"" + oneID + "\",\"A\"\n", ReadOptions{}, []Row{{Line: 3, ID: oneID}}, comma},
		"tabs":                       {"serial\tid\n5CG1\t\n", ReadOptions{}, serial(2), Format{Comma: '\t'}},
		"bars":                       {"serial|model\n5CG1|HP\n", ReadOptions{}, serial(2), Format{Comma: '|'}},
		"separators in quotes":       {"serial,\"a;b;c;d\"\n5CG1,x\n", ReadOptions{}, serial(2), comma},
		"no line end":                {"serial\n5CG1", ReadOptions{}, serial(2), comma},
		"line ends of Excel for Mac": {"serial,model\r5CG1,HP\r5CG2,HP\r", ReadOptions{}, serial(2, 3), comma},
		"empty rows":                 {"\nserial,model\n\n,\n5CG1,\n , \n", ReadOptions{}, serial(5), comma},
		"a short row":                {"model,serial,note\nHP,5CG1\n", ReadOptions{}, []Row{{Line: 2, Serial: "5CG1"}}, comma},
		"empty cells behind":         {"serial,model\n5CG1,HP,,\n", ReadOptions{}, serial(2), comma},
		"a cell of two lines":        {"note,serial\n\"a\nb\",5CG1\nc,5CG2\n", ReadOptions{}, serial(2, 4), comma},
		"both, by id":                {"id,serial\n" + oneID + ",5CG1\n", ReadOptions{By: "id"}, []Row{{Line: 2, ID: oneID}}, comma},
		"both, by serial":            {"id,serial\n" + oneID + ",5CG1\n", ReadOptions{By: "serial"}, serial(2), comma},
		"cells against formulas":     {"serial\n\"=\"\"0123\"\"\"\n'-ABC\n-ABD\n''X\n", ReadOptions{}, []Row{{Line: 2, Serial: "0123"}, {Line: 3, Serial: "-ABC"}, {Line: 4, Serial: "-ABD"}, {Line: 5, Serial: "'X"}}, comma},
		"formulas without quotes":    {"serial,model\n=\"5CG1\",HP\n5CG2,13\"\n", ReadOptions{}, serial(2, 3), comma},
		"spaces":                     {"serial\n  PF3 0123 \n", ReadOptions{}, []Row{{Line: 2, Serial: "PF3 0123"}}, comma},
		"Latin-1 beside":             {"serial,r\xf8m\n5CG1,\xe5\n", ReadOptions{}, serial(2), comma},
		"UTF-16 of PowerShell 5.1":   {utf16LE("\ufeffDevice Serial Number,Windows Product ID\r\n5CG1,\r\n5CG2,\U0001f600\r\n"), ReadOptions{}, serial(2, 3), comma},
		"UTF-16 without a mark":      {utf16LE("serial\r\n5CG1\r\n"), ReadOptions{}, serial(2), comma},
		"UTF-16, big endian":         {"\xfe\xff\x00S\x00N\x00\n\x005\x00C\x00G\x001", ReadOptions{}, serial(2), comma},
		"German":                     {"Seriennummer;Modell\n5CG1;HP\n", ReadOptions{}, serial(2), Format{Comma: ';'}},
		"French":                     {"Num\u00e9ro de s\u00e9rie\n5CG1\n", ReadOptions{}, serial(2), comma},
		"French in Windows-1252":     {"Num\xe9ro de s\xe9rie;x\n5CG1;\n", ReadOptions{}, serial(2), Format{Comma: ';'}},
		"French in two code points":  {"Nume\u0301ro de se\u0301rie\n5CG1\n", ReadOptions{}, serial(2), comma},
		"abbreviated":                {"S/N\n5CG1\n", ReadOptions{}, serial(2), comma},
		"Configuration Manager":      {"Name0,SerialNumber0\nPC,5CG1\n", ReadOptions{}, serial(2), comma},
		"a path of ServiceNow":       {"cmdb_ci.serial_number,number\n5CG1,RITM1\n", ReadOptions{}, serial(2), comma},
		"AutoPilotID":                {"AutoPilotID\n" + oneID + "\n", ReadOptions{}, []Row{{Line: 2, ID: oneID}}, comma},
		"-column":                    {"Tag,Model\n5CG1,HP\n", ReadOptions{Columns: map[string]string{"serial": "tag"}}, serial(2), comma},
		"-column beside a known one": {"serial,Real serial\nx,5CG1\n", ReadOptions{Columns: map[string]string{"serial": "Real serial"}}, serial(2), comma},
		"-column expected":           {"serial,UserPrincipalName,Room\n5CG1,a@x.com,room\n", ReadOptions{Columns: map[string]string{"expected": "Room"}}, []Row{{Line: 2, Serial: "5CG1", Expected: resource("room")}}, comma},
		"-no-expect":                 {"serial,UserPrincipalName\n5CG1,a@x.com\n", ReadOptions{NoExpect: true}, serial(2), comma},
		"-placeholders":              {"serial\nDefault string\n", ReadOptions{Placeholders: true}, []Row{{Line: 2, Serial: "Default string"}}, comma},
		"unassign list by serial": {
			"deviceId,serialNumber,groupTag,expectedUserPrincipalName,expectedResourceName\n" + oneID + ",5CG1,A,room@x.com,room\n" + otherID + ",5CG2,A,,hub@2\n",
			ReadOptions{By: "serial"},
			[]Row{{2, "", "5CG1", upn("room@x.com"), ""}, {3, "", "5CG2", resource("hub@2"), ""}},
			comma,
		},
	} {
		table, err := ReadRows(strings.NewReader(test.text), test.options)
		if err != nil || len(table.Invalid) > 0 || len(table.Notes) > 0 {
			t.Errorf("%s: %v, %+v", name, err, table)
			continue
		}
		if !slices.Equal(table.Rows, test.rows) || table.Format != test.format {
			t.Errorf("%s: %+v %+v", name, table.Rows, table.Format)
		}
	}
}

// utf16LE encodes a text as Windows PowerShell 5.1 does.
func utf16LE(text string) string {
	var b []byte
	for _, unit := range utf16.Encode([]rune(text)) {
		b = binary.LittleEndian.AppendUint16(b, unit)
	}
	return string(b)
}

// A reading that a person may not expect is told.
func TestReadRowsNotes(t *testing.T) {
	t.Parallel()
	const graphHeader = "AddressableUserName,AzureAdDeviceId,GroupTag,Id,ManagedDeviceId,ResourceName,SerialNumber,UserPrincipalName\n"
	for name, test := range map[string]struct {
		text  string
		rows  int
		notes []string // their beginnings
	}{
		"Get-MgDeviceManagementWindowsAutopilotDeviceIdentity": {
			graphHeader + ",x,A," + oneID + ",,,5CG1,\n,x,A," + otherID + ",,,5CG2,room@x.com\n", 2,
			[]string{`2 rows have both an id and a serial number: the id in column "Id" counts. `, `1 device is expected to carry the account in column "UserPrincipalName", `},
		},
		"one value a line":    {"5CG1\r\n5CG2\r\n" + oneID + "\r\n", 3, []string{"the file has no header: "}},
		"one quoted value":    {"\"5CG1\"\n\"5CG2\"\n", 2, []string{"the file has no header: "}},
		"one value in UTF-16": {utf16LE("\ufeff5CG1\r\n5CG2\r\n"), 2, []string{"the file has no header: "}},
		"a printed column":    {"\r\nSerial number\r\n-------------\r\n5CG1234ABC   \r\n5CG5678DEF   \r\n\r\n\r\n", 2, []string{"the file is a printed table; "}},
		"a printed table":     {"\nName  Serial number Tag\n----  ------------- ---\nPC 1  5CG1234ABC    MTR\nPC 22 5CG5678DEF\n\n", 2, []string{"the file is a printed table; "}},
		"Markdown":            {"| Serial | Tag |\n|:---|---|\n| 5CG1 | A |\n", 1, []string{"the file is a printed table; "}},
		"a database":          {" serial | tag \n--------+-----\n 5CG1   | A\n", 1, []string{"the file is a printed table; "}},
		"a database in a box": {"+--------+-----+\n| serial | tag |\n+--------+-----+\n| 5CG1   | A   |\n+--------+-----+\n", 1, []string{"the file is a printed table; "}},
		"the results of a dry run": {
			"line,deviceId,serialNumber,account_before,status,code,message,outcome,requestId,graphRequestId,time,deployment,expected\n" +
				"2," + oneID + ",5CG1,room@x.com,200,would_unassign,,dry_run,,,,,\n3,,5CG2,,404,device_not_found,,dry_run,,,,,\n4," + otherID + ",,,200,already_unassigned,,dry_run,,,,,\n",
			1,
			[]string{"1 row has both", `1 device is expected to carry the account in column "account_before", `, "2 rows are left out, since the dry run did not report would_unassign: 1 already_unassigned, 1 device_not_found"},
		},
	} {
		table, err := ReadRows(strings.NewReader(test.text), ReadOptions{})
		if err != nil || len(table.Invalid) > 0 || len(table.Rows) != test.rows || len(table.Notes) != len(test.notes) {
			t.Errorf("%s: %v, %+v", name, err, table)
			continue
		}
		for i, note := range test.notes {
			if !strings.HasPrefix(table.Notes[i], note) {
				t.Errorf("%s: %q, want %q", name, table.Notes[i], note)
			}
		}
		if name == "the results of a dry run" && table.Rows[0].Expected.UserPrincipalName != "room@x.com" {
			t.Errorf("the account that was reviewed is not expected: %+v", table.Rows)
		}
	}
}

func TestReadRowsRefusesAFile(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text    string
		options ReadOptions
		want    string
	}{
		"empty":               {"", ReadOptions{}, "it is empty"},
		"a BOM alone":         {"\ufeff", ReadOptions{}, "it is empty"},
		"unknown columns":     {"Name;Owner\nx;y\n", ReadOptions{}, `one must be called deviceId or serialNumber, or be chosen with -column serial=NAME. Its columns are "Name", "Owner"`},
		"no such column":      {"serial\nx\n", ReadOptions{By: "id"}, "one must be called deviceId, or be chosen with -column serial=NAME. Its columns are \"serial\""},
		"no such -column":     {"serial\nx\n", ReadOptions{Columns: map[string]string{"serial": "Tag"}}, `it has no column "Tag". Its columns are "serial"`},
		"a header of words":   {"Owner\nx\n", ReadOptions{}, "no column names a device"},
		"a column twice":      {"id,Device ID\n", ReadOptions{}, `its columns "id" and "Device ID" mean the same; choose with -column id=NAME`},
		"a workbook":          {"PK\x03\x04\x00\"\n", ReadOptions{}, "it is an Excel workbook"},
		"JSON":                {`[{"serialNumber":"5CG1"}]`, ReadOptions{}, "it is JSON"},
		"a printed list":      {"\nSerial number : 5CG1\nDevice ID     : x\n", ReadOptions{}, "it is a list that PowerShell printed"},
		"an endless header":   {strings.Repeat("x", 2<<20), ReadOptions{}, "line 1 is longer than 1048576 bytes"},
		"very many columns":   {strings.Repeat("x,", 1000) + "y\n", ReadOptions{}, "and 951 more"},
		"one device too many": {"serial\n" + manySerials(maxRows+1), ReadOptions{}, "more than 100000 devices"},
		"not a list":          {"serial\n" + strings.Repeat("\"x\n", maxRows+2), ReadOptions{}, "more than 100000 of its rows are not valid"},
	} {
		if table, err := ReadRows(strings.NewReader(test.text), test.options); err == nil || !strings.Contains(err.Error(), test.want) || len(err.Error()) > 8000 {
			t.Errorf("%s: %.300v, %.300v; want %q", name, table, err, test.want)
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

// One odd row spoils no other.
func TestReadRowsTellsOfRows(t *testing.T) {
	t.Parallel()
	text := strings.Join([]string{
		"id,serial,expected,reference",
		"x,,,",
		",,room@x.com,",
		"00000000-0000-0000-0000-000000000000,,,",
		",1.23457E+11,,",
		",5CG\u00d8,,",
		",---,,",
		"," + strings.Repeat("x", 129) + ",,",
		",5CG2,,,,x",
		",5CG3," + "a\u200bb,",
		",5CG4,," + strings.Repeat("x", 129),
		",5CG5,room@x.com,",
		",5cg5,ROOM@x.com,RITM2",
		",5CG5,other@x.com,",
		oneID + ",,,",
		strings.ToUpper(oneID) + ",,,",
		"{" + otherID + "},,,",
		`,"5CG6"x,,`,
		`"5CG6,,,`,
		",5CG7,,",
		",1.23457e+11,,",
		",1.23457E11,,",
		",123456789012.0,,",
		`,"1,23457E+11",,`,
		",To be filled by O.E.M.,,",
		",Default string,,",
		",0,,",
		",N/A,,",
		",5CG12…,,",
		",5CG8,,",
		"\"a\nb\",,,",
		",5CG9,,",
	}, "\n")
	table, err := ReadRows(strings.NewReader(text), ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`line 2: "x" is not the id`, "line 3: it names no device", `line 4: "00000000-0000-0000-0000-000000000000" is not the id`, `line 5: "1.23457E+11" is a long number`,
		"line 6: \"5CG\u00d8\" is not a serial number", `line 7: "---" is not a serial number`, "line 8: ", "line 9: it has 6 cells and the header 4", "line 10: ", "line 11: ",
		"line 14: it names the device of line 12 and expects another account", "line 17: ", "line 18: a quote", "line 19: a quote",
		`line 21: "1.23457e+11" is a long number`, `line 22: "1.23457E11" is a long number`, `line 23: "123456789012.0" is a long number`, `line 24: "1,23457E+11" is a long number`,
		`line 25: "To be filled by O.E.M." is a placeholder`, `line 26: "Default string" is a placeholder`, `line 27: "0" is a placeholder`, `line 28: "N/A" is a placeholder`,
		`line 29: "5CG12…" was cut off`, "line 31: \"a\\nb\" is not the id",
	}
	if len(table.Invalid) != len(want) {
		t.Fatalf("%q", table.Invalid)
	}
	for i := range want {
		if !strings.HasPrefix(table.Invalid[i], want[i]) {
			t.Errorf("%q, want %q", table.Invalid[i], want[i])
		}
	}
	var lines []int
	for _, row := range table.Rows {
		lines = append(lines, row.Line)
	}
	if !slices.Equal(lines, []int{12, 15, 20, 30, 33}) || len(table.Notes) != 2 || table.Notes[0] != "line 13 repeats the device of line 12; the device is sent once" {
		t.Errorf("%v, %q", lines, table.Notes)
	}
	cut, err := ReadRows(strings.NewReader("Serial number Count\n------------- -----\n5CG1          12345\n5CG2       12345678\n5CG3          12345\n"), ReadOptions{})
	if err != nil || len(cut.Rows) != 2 || !slices.Equal(cut.Invalid, []string{"line 4: its cells do not stand below their headers; use Export-Csv instead"}) {
		t.Errorf("a printed table: %v, %+v", err, cut)
	}
}

// A device that comes twice is sent once. The account that one of its rows expects counts.
func TestReadRowsTakesTheStricter(t *testing.T) {
	t.Parallel()
	table, err := ReadRows(strings.NewReader("serial,expected\nA,room@x.com\nB,\nC,\na,\nb,hub@x.com\nc,\nB,\nb,Hub@x.com\nB,other@x.com\n"), ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(table.Rows, []Row{{Line: 2, Serial: "A", Expected: parseAccount("room@x.com")}, {Line: 3, Serial: "B", Expected: parseAccount("hub@x.com")}, {Line: 4, Serial: "C"}}) {
		t.Errorf("%+v", table.Rows)
	}
	const stricter = ", with the account that one of the rows expects"
	if want := []string{
		"line 5 repeats the device of line 2; the device is sent once" + stricter, "line 6 repeats the device of line 3; the device is sent once" + stricter,
		"line 7 repeats the device of line 4; the device is sent once", "line 8 repeats the device of line 3; the device is sent once" + stricter,
		"line 9 repeats the device of line 3; the device is sent once",
	}; !slices.Equal(table.Notes, want) {
		t.Errorf("%q", table.Notes)
	}
	if !slices.Equal(table.Invalid, []string{"line 10: it names the device of line 3 and expects another account"}) {
		t.Errorf("%q", table.Invalid)
	}
}

// A long export with wide rows is not kept in memory, except for the columns that count.
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
	table, err := ReadRows(read, ReadOptions{})
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

// Rows that are read from any file are valid, and come back from a results file as they were, in cells that no
// spreadsheet calculates, with any separator.
func FuzzReadRows(f *testing.F) {
	for _, seed := range []string{
		"serial\n=1+1\n", "id;serial\n;-A\n", "\ufeffserial\r\n'@A\r\n", "serial\n\"a", "serial\n+1,2\n", "sep=;\nid\n" + oneID,
		"serial\nX;=1+cmd|'/C calc'!A0;\n", "serial;x\nX,=1,y\n", "5CG1\n", "Serial Id\n------ --\n5CG1 x\n", utf16LE("\ufeffserial\n5CG1"),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		table, err := ReadRows(strings.NewReader(text), ReadOptions{})
		if err != nil {
			return
		}
		for _, row := range table.Rows {
			if _, err := graph.ParseDeviceID(row.ID); (row.ID == "") == (row.Serial == "") || row.ID != "" && err != nil || row.Serial != strings.TrimSpace(row.Serial) || row.Serial != "" && !graph.ValidSerialNumber(row.Serial) {
				t.Fatalf("%+v", row)
			}
			result := Result{Line: row.Line, DeviceID: row.ID, SerialNumber: row.Serial, Status: 200, Code: "unassigned", Message: row.Reference, Expected: row.Expected.String()}
			for _, comma := range ",;\t" {
				var b bytes.Buffer
				if err := (&Results{format: Format{Comma: comma}}).writeRows(&b, [][]string{result.formatCells()}); err != nil {
					t.Fatal(err)
				}
				for _, other := range ",;\t" {
					for cell := range strings.FieldsFuncSeq(b.String(), func(c rune) bool { return c == other || c == '\n' }) {
						if cell != "" && strings.ContainsRune("=+-@", rune(cell[0])) {
							t.Fatalf("%q is a formula where %q separates cells", cell, other)
						}
					}
				}
				records := csv.NewReader(&b)
				records.Comma = comma
				cells, err := records.Read()
				if err != nil {
					t.Fatal(err)
				}
				if got, err := resultOf(resultHeader, cells); err != nil || got != result {
					t.Fatalf("%+v came back as %+v, %v", result, got, err)
				}
			}
		}
	})
}

// A file of results survives a crash and a spreadsheet, and is refused if it is another.
func TestOpenResults(t *testing.T) {
	path := filepath.Join(t.TempDir(), "devices.results.csv")
	r, err := OpenResults(path, Format{';', true}, contoso, false)
	if err != nil {
		t.Fatal(err)
	}
	first := Result{Line: 3, DeviceID: oneID, SerialNumber: "=5CG1", AccountBefore: "room@x.com", Status: 503, Code: "device_locked", Message: "a; \"b\" c", Outcome: "not_done", Expected: "room@x.com", Deployment: contoso}
	second := Result{Line: 2, DeviceID: otherID, Status: 404, Code: "device_not_found", Outcome: "not_done", Deployment: contoso}
	if err := r.Add(first, second); err != nil {
		t.Fatal(err)
	}
	again := first // finds the device without an account: the account that was removed stays on record
	again.Status, again.Code, again.Outcome, again.AccountBefore = 200, "unassigned", "done", ""
	first.Status, first.Code, first.Outcome = 200, "unassigned", "done"
	if err := r.Add(again); err != nil {
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
	if got, ok := r.Of(Row{Line: 99, Serial: "=5cg1", Expected: parseAccount("Room@x.com")}); !ok || got != first {
		t.Errorf("by serial number: %+v", got)
	}
	if got, ok := r.Of(Row{ID: otherID}); !ok || got != second {
		t.Errorf("by id: %+v", got)
	}
	if got, ok := r.Of(Row{Serial: "=5CG1"}); ok {
		t.Errorf("expected of another account: %+v", got)
	}
	if _, ok := r.Of(Row{ID: oneID, Expected: parseAccount("room@x.com")}); ok {
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
	want := "line,deviceId,serialNumber,account_before,status,code,message,outcome,requestId,graphRequestId,time,deployment,named_by,expected\n2," + otherID + ",,,404,device_not_found,,not_done,,,," + contoso + ",id,\n3," + oneID + ",'=5CG1,room@x.com,200,unassigned,\"a; \"\"b\"\" c\",done,,,," + contoso + ",serial,room@x.com\n"
	if err != nil || string(text) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, text, want)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("there is more than the results: %v", entries)
	}

	for name, text := range map[string]string{
		"another file":       "serial,model\n5CG1,HP\n",
		"a torn row inside":  want + "7," + oneID + "\n8," + oneID + ",,,200,,,,,,,,,\n",
		"a row of nothing":   want + "7,,,,200,,,,,,,,,\n",
		"a deployment's":     want + "8," + oneID + ",,,200,,,,,,,https://staging.example/api/unassign,,\n",
		"a line that is not": want + "x," + oneID + ",,,200,,,,,,,,,\n",
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

// Every spelling of an address names the same deployment, and its key is not kept.
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
			if got := result.findStanding(); got != want {
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
		"long accounts":      {func(i int) Row { return Row{Serial: fmt.Sprint(i), Expected: parseAccount(long)} }, 14},
	} {
		var rows []Row
		for i := range 30 {
			rows = append(rows, test.row(i))
		}
		n := l.batchSize(rows)
		order := Order{Reference: strings.Repeat("\U0001f600", 128)}
		for _, row := range rows[:n] {
			order.Devices = append(order.Devices, targetOf(row))
		}
		if body, err := json.Marshal(order); n != test.want || err != nil || len(body) > 16<<10 {
			t.Errorf("%s: %d rows in %d bytes, %v; want %d", name, n, len(body), err, test.want)
		}
	}
	if n := l.batchSize([]Row{{ID: oneID}}); n != 1 {
		t.Errorf("the last row: %d", n)
	}
}
