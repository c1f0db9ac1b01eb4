package graph_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"autopilot-unassign/graph"
	"autopilot-unassign/internal/azuresim"
)

// serials returns selectors for serial numbers.
func serials(texts ...string) []graph.Selector {
	selectors := make([]graph.Selector, len(texts))
	for i, text := range texts {
		selectors[i].SerialNumber = text
	}
	return selectors
}

// ids returns selectors for the devices with those numbers.
func ids(numbers ...int) []graph.Selector {
	selectors := make([]graph.Selector, len(numbers))
	for i, n := range numbers {
		selectors[i].ID = device(n)
	}
	return selectors
}

// known are serial numbers of devices, which have the numbers 1, 2 and so on.
var known = []string{
	"5CG1234ABC", "X5CG1234ABC", "Default string", "Default string", "default STRING", "VMware-56 4d 2b 3c-4d 5e", "1234-5678-9012-3456",
	"O'Brien-7", "PF3-0123-4567", " 5CG0000PAD ", "", "ABC", "abc", "VMware-56 4d 2b 3c-4d 5f",
}

func TestFind(t *testing.T) {
	fails := func(times, status int) func(*world) {
		return func(w *world) {
			w.cloud.Fail(azuresim.StepGraph, times, azuresim.GraphError(status, azuresim.Nested, 0))
		}
	}
	itemsFail := func(times, status int) func(*world) {
		return func(w *world) {
			w.cloud.Fail(azuresim.StepItem, times, azuresim.GraphError(status, azuresim.Nested, 0))
		}
	}
	for _, test := range []struct {
		name      string
		prepare   func(*world)
		selectors []graph.Selector
		found     string
		asked     string
	}{
		{"a serial number", nil, serials("5CG1234ABC"), "1", "filter"},
		{"in other letters", nil, serials("5cg1234abc"), "1", "filter"},
		{"a part of one", nil, serials("5CG1234"), "not_found", "filter"},
		{"an unknown one", nil, serials("5CG9999XYZ"), "not_found", "filter"},
		{"a placeholder of three devices", nil, serials("Default string"), "ambiguous 3 4 5", "filter"},
		{"two that differ in letters alone", nil, serials("Abc"), "ambiguous 12 13", "walk"},
		{"with a letter that folds to an s", nil, serials("Default \u017ftring"), "not_found", "filter"},
		{"with spaces", nil, serials("VMware-56 4d 2b 3c-4d 5e"), "6", "filter"},
		{"with hyphens, like a GUID", nil, serials("1234-5678-9012-3456"), "7", "filter"},
		{"with hyphens", nil, serials("PF3-0123-4567"), "9", "filter"},
		{"without the hyphens it has", nil, serials("PF301234567"), "not_found", "filter"},
		{"with a quote", nil, serials("O'Brien-7"), "8", "filter"},
		{"with a quote that would end the text", nil, serials("x') or contains(serialNumber,'A"), "not_found", "filter"},
		{"written with spaces around it", nil, serials("5CG0000PAD"), "10", "filter"},
		{"too short for the filter", nil, serials("A-B-C"), "not_found", "walk"},
		{"without a letter or digit", nil, serials("é"), "not_found", "walk"},
		{"an id", nil, ids(1), "1", "get"},
		{"an unknown id", nil, ids(99), "not_found", "get"},

		{"the filter says 400", fails(1, 400), serials("5CG1234ABC"), "1", "filter, walk"},
		{"the filter says 400, and no device has it", fails(1, 400), serials("5CG9999XYZ"), "not_found", "filter, walk"},
		{"the filter says 400, and three have it", fails(1, 400), serials("Default string"), "ambiguous 3 4 5", "filter, walk"},
		{"the filter says 500", fails(3, 500), serials("5CG1234ABC"), "1", "filter, filter, filter, walk"},
		{"the list says 400 too", fails(-1, 400), serials("5CG1234ABC"), "rejected", "filter, walk"},
		{"the filter says 404, which is not of a device", fails(1, 404), serials("5CG1234ABC"), "1", "filter, walk"},
		{"the filter says 503", fails(-1, 503), serials("5CG1234ABC"), "unavailable", "filter, filter, filter"},
		{"the filter says 403", fails(-1, 403), serials("5CG1234ABC"), "forbidden", "filter"},
		{"an id, and Graph says 500", fails(-1, 500), ids(1), "internal", "get, get, get"},
		{"an id, and Graph says 400", fails(-1, 400), ids(1), "rejected", "get"},

		{"none", nil, nil, "", ""},
		{"mixed", nil, append(serials("5CG1234ABC", "nobody", "Default string"), ids(9, 99)...), "1, not_found, ambiguous 3 4 5, 9, not_found", "batch 5"},
		{"short ones, in one walk", nil, append(serials("1", "2", "abc", "5CG1234ABC", "-"), ids(9)...), "not_found, not_found, ambiguous 12 13, 1, not_found, 9", "batch 2, walk"},
		{"short ones and one other", nil, serials("1", "5CG1234ABC", "3"), "not_found, 1, not_found", "filter, walk"},
		{"a proxy says 404 for an id", func(w *world) { w.cloud.Fail(azuresim.StepGraph, -1, azuresim.Foreign(azuresim.Status(404))) }, ids(1), "bad_answer", "get, get, get"},
		{"the batch says 404", fails(1, 404), ids(1, 2), "rejected, rejected", "batch 2"},
		{"odd rows", func(w *world) {
			w.cloud.PutOddRows(`null`, `7`, `[]`, `{}`, `{"id":7,"serialNumber":"odd"}`, `{"id":"`+device(50).String()+`","serialNumber":"5CG0000ODD","groupTag":7}`,
				`{"serialNumber":"NOIDATALL"}`, `{"id":"00000000-0000-0000-0000-000000000000","serialNumber":"5CG1234ABC"}`)
		}, serials("O'Brien-7", "5CG0000ODD", "NOIDATALL", "5CG1234ABC"), "8, 50, bad_answer, ambiguous 1", "batch 4"},
		{"one twice", nil, append(serials("5CG1234ABC", "5cg1234abc"), ids(1)...), "1, 1, 1", "batch 3"},
		{"three that the filter fails for, in one walk", itemsFail(3, 400), serials("5CG1234ABC", "O'Brien-7", "nobody", "PF3-0123-4567"), "1, 8, not_found, 9", "batch 4, walk"},
		{"one item says 429 once", itemsFail(1, 429), serials("5CG1234ABC", "O'Brien-7"), "1, 8", "batch 2, batch 1"},
		{"all items say 500", itemsFail(-1, 500), append(serials("5CG1234ABC", "O'Brien-7"), ids(9)...), "1, 8, internal", "batch 3, batch 3, batch 3, walk"},
		{"the batch says 400", fails(-1, 400), serials("5CG1234ABC", "O'Brien-7"), "rejected, rejected", "batch 2"},
		{"the batch says 503", fails(-1, 503), ids(1, 2), "unavailable, unavailable", "batch 2, batch 2, batch 2"},
		{"the batch says 403", fails(-1, 403), ids(1, 2), "forbidden, forbidden", "batch 2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			simulate(t, func(w *world) {
				w.put(known...)
				if test.prepare != nil {
					test.prepare(w)
				}
				ctx, cancel := context.WithTimeout(w.t.Context(), 25*time.Second)
				defer cancel()
				found := w.client.Find(ctx, test.selectors...)
				if got, asked := foundWords(t, found), w.asked(); got != test.found || asked != test.asked {
					t.Errorf("found %s by %s\nwant  %s by %s", got, asked, test.found, test.asked)
				}
				wantNoPassword(t, found)
			})
		})
	}
}

// Each twenty devices cost one request.
func TestFindCostsARequestForTwenty(t *testing.T) {
	simulate(t, func(w *world) {
		numbers, texts, want := make([]int, 45), make([]string, 45), make([]string, 45)
		for i := range numbers {
			numbers[i], texts[i], want[i] = i+1, fmt.Sprintf("PF-%04d", i), fmt.Sprint(i+1)
		}
		w.put(texts...)
		for n := 1; n <= 45; n++ {
			for name, selectors := range map[string][]graph.Selector{"ids": ids(numbers[:n]...), "serial numbers": serials(texts[:n]...)} {
				before := w.cloud.Count(azuresim.StepGraph)
				if got := foundWords(t, w.client.Find(w.t.Context(), selectors...)); got != strings.Join(want[:n], ", ") {
					t.Errorf("%d %s: %s", n, name, got)
				}
				if asked := w.cloud.Count(azuresim.StepGraph) - before; asked != (n+19)/20 {
					t.Errorf("%d %s cost %d requests", n, name, asked)
				}
			}
		}
	})
}

// Find agrees with the list of a fleet, which has every kind of serial number.
func TestFindInAFleet(t *testing.T) {
	simulate(t, func(w *world) {
		const size = 1500
		w.cloud.PutFleet(size)
		having := map[string][]string{}
		for _, d := range w.cloud.Devices() {
			serial := strings.ToLower(d.SerialNumber)
			having[serial] = append(having[serial], d.ID)
		}
		var sought []string
		for i, d := range azuresim.Fleet(size) {
			if d.SerialNumber != "" && (i%37 == 0 || i%250 >= 40 && i%250 < 44 || i%500 >= 498) {
				sought = append(sought, d.SerialNumber)
			}
		}
		found := w.client.Find(w.t.Context(), serials(sought...)...)
		for i, f := range found {
			ids := having[strings.ToLower(sought[i])]
			got := []string{f.Device.ID.String()}
			if len(ids) > 1 {
				got = nil
				for _, candidate := range f.Candidates {
					got = append(got, candidate.ID.String())
				}
				if ending(t, f.Err) != "ambiguous" {
					t.Errorf("%q: %v", sought[i], f.Err)
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(ids) {
				t.Errorf("%q: %v, %v; want %v", sought[i], got, f.Err, ids)
			}
		}
		wantNoPassword(t, found)
	})
}

// Serial numbers that match much of the inventory cost one walk for all, and two walks at most run at one time.
func TestFindShortSerialNumbers(t *testing.T) {
	simulate(t, func(w *world) {
		w.cloud.PutFleet(1200)
		w.cloud.Fail(azuresim.StepGraph, -1, azuresim.Delay(time.Second))
		w.client.Find(w.t.Context(), ids(1)...) // fetches the token
		var short, common []string
		for i := range 20 {
			short, common = append(short, fmt.Sprintf("%c-%d", 'A'+i, i)), append(common, fmt.Sprintf("VMware-%d", i))
		}
		for name, test := range map[string]struct {
			serials []string
			most    int
		}{
			"one":                       {short[:1], 2},
			"twenty":                    {short, 2},
			"twenty that share a word":  {common, 1 + 2},
			"one that is a common word": {[]string{"VMware-1"}, 1},
		} {
			before := w.cloud.Count(azuresim.StepGraph)
			w.client.Find(w.t.Context(), serials(test.serials...)...)
			if pages := w.cloud.Count(azuresim.StepGraph) - before; pages > test.most {
				w.t.Errorf("%s: %d requests, want %d at most", name, pages, test.most)
			}
		}
		start := time.Now()
		var running sync.WaitGroup
		for range 6 {
			running.Go(func() { w.client.Find(w.t.Context(), serials(short...)...) })
		}
		running.Wait()
		if took := time.Since(start); took != 3*2*time.Second {
			w.t.Errorf("six walks of two pages took %v, want two at one time", took)
		}
		ctx, cancel := context.WithTimeout(w.t.Context(), 4500*time.Millisecond)
		defer cancel()
		ends := make([]string, 6)
		for i := range ends {
			running.Go(func() { ends[i] = foundWords(w.t, w.client.Find(ctx, serials("x")...)) })
		}
		running.Wait()
		slices.Sort(ends)
		if got := strings.Join(ends, " "); got != "not_found not_found timeout timeout timeout timeout" {
			w.t.Errorf("within the time of one walk: %s", got)
		}
	})
}

// A walk ends with the page that decides all of its serial numbers.
func TestWalkEndsEarly(t *testing.T) {
	simulate(t, func(w *world) {
		w.cloud.PutFleet(2500)
		w.put("1", "1")
		if got := foundWords(t, w.client.Find(w.t.Context(), graph.Selector{SerialNumber: "1"})); got != "ambiguous 1 2" {
			t.Errorf("found %s", got)
		}
		if asked := w.asked(); asked != "walk" {
			t.Errorf("asked for %s", asked)
		}
	})
}

// Values of a wrong type are empty, and an account that Graph did not send as documented is unknown.
func TestDecodeOddDevice(t *testing.T) {
	id := device(1).String()
	for text, want := range map[string]graph.Device{
		`{"id":"` + id + `","serialNumber":7,"groupTag":["MTR"],"userPrincipalName":null}`:          {ID: device(1), Account: graph.Account{Unknown: true}},
		`{"id":"` + id + `","userPrincipalName":null,"addressableUserName":""}`:                     {ID: device(1), Account: graph.Account{Unknown: true}},
		`{"id":"` + id + `","userPrincipalName":null,"addressableUserName":"","resourceName":null}`: {ID: device(1)},
		`{"id":"` + id + `","userPrincipalName":7,"resourceName":""}`:                               {ID: device(1), Account: graph.Account{Unknown: true}},
		`{"id":"` + id + `","userPrincipalName":7,"resourceName":"room"}`:                           {ID: device(1), Account: graph.Account{ResourceName: "room"}},
		`{"\u0069d":"` + id + `","resourceNam\u0065":"room"}`:                                       {ID: device(1), Account: graph.Account{ResourceName: "room"}},
		`{"id":7,"serialNumber":" S1 "}`:                                                            {SerialNumber: "S1", Account: graph.Account{Unknown: true}},
		`null`:                                                                                      {Account: graph.Account{Unknown: true}},
		`[1]`:                                                                                       {},
	} {
		got := graph.Device{SerialNumber: "of an earlier row"}
		if err := json.Unmarshal([]byte(text), &got); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", text, got, err, want)
		}
	}
}

// A device that comes again pages later is one device, not several that share its serial number.
func TestFindDeviceOnTwoPages(t *testing.T) {
	next := devices + "?$skiptoken=LastSerialNumber="
	row := func(n int) string { return fmt.Sprintf(`{"id":"%v","serialNumber":"S%d"}`, device(n), n) }
	page := func(link, row string) azuresim.Fault {
		return azuresim.Body(200, "application/json", `{"value":[`+row+`],"@odata.nextLink":"`+link+`"}`)
	}
	simulate(t, func(w *world) {
		for _, p := range []azuresim.Fault{page(next+"1", row(1)), page(next+"2", row(2)), page("", row(1))} {
			w.cloud.Fail(azuresim.StepGraph, 1, p)
		}
		if got := foundWords(t, w.client.Find(w.t.Context(), serials("S1")...)); got != "1" {
			t.Errorf("found %s", got)
		}
	})
}

// More devices than fit on a page share a placeholder, so that the list leads to itself. They are ambiguous all the same.
func TestFindAmongTooMany(t *testing.T) {
	simulate(t, func(w *world) {
		texts := make([]string, 2500)
		for i := range texts {
			texts[i] = "Default string"
		}
		w.put(append(texts, "Default other")...)
		for name, prepare := range map[string]func(){
			"by the filter": func() {},
			"by a walk":     func() { w.cloud.Fail(azuresim.StepGraph, 1, azuresim.GraphError(400, azuresim.Nested, 0)) },
		} {
			prepare()
			found := w.client.Find(w.t.Context(), serials("default string")...)
			if ending(t, found[0].Err) != "ambiguous" || len(found[0].Candidates) != 20 || found[0].Sharing < 999 {
				t.Errorf("%s: %v with %d candidates of %d", name, found[0].Err, len(found[0].Candidates), found[0].Sharing)
			}
			w.cloud.Heal()
		}
		// Other serial numbers are not decided: they may follow the page that leads to itself.
		if got := foundWords(t, w.client.Find(w.t.Context(), serials("Default none")...)); got != "bad_answer" {
			t.Errorf("an unknown one: %s", got)
		}
	})
}

// A failure of the credential causes no walk, and is the same for all devices of a batch.
func TestFindWithoutACredential(t *testing.T) {
	simulate(t, func(w *world) {
		w.cloud.DeleteSecret("app")
		for range 2 {
			if got := foundWords(t, w.client.Find(w.t.Context(), serials("5CG1234ABC")...)); got != "not_found" {
				t.Errorf("alone: %s", got)
			}
			found := w.client.Find(w.t.Context(), serials("5CG1234ABC", "O'Brien-7")...)
			if found[0].Err.Error() != "vault: not_found (404 SecretNotFound): secret app" {
				t.Errorf("in a batch: %v", found[0].Err)
			}
		}
		if w.asked() != "" {
			t.Errorf("Graph was asked: %s", w.asked())
		}
	})
}

// Another device than the requested one is a bad response.
func TestFindAnotherDevice(t *testing.T) {
	simulate(t, func(w *world) {
		w.put("a", "b")
		other := azuresim.Body(200, "application/json", `{"id":"`+device(2).String()+`","serialNumber":"b"}`)
		w.cloud.Fail(azuresim.StepGraph, 1, other)
		w.cloud.Fail(azuresim.StepItem, 1, other)
		if got := foundWords(t, w.client.Find(w.t.Context(), ids(1)...)); got != "bad_answer" {
			t.Errorf("alone: %s", got)
		}
		if got := foundWords(t, w.client.Find(w.t.Context(), ids(1, 2)...)); got != "bad_answer, 2" {
			t.Errorf("in a batch: %s", got)
		}
	})
}

// The account is decoded from every form of its properties.
func TestFindAccounts(t *testing.T) {
	for name, test := range map[string]struct {
		device            azuresim.Device
		assigned, unknown bool
	}{
		"all three":        {azuresim.Device{UserPrincipalName: "a@b", AddressableUserName: "a", ResourceName: "r"}, true, false},
		"one of three":     {azuresim.Device{AddressableUserName: "a"}, true, false},
		"one, others null": {azuresim.Device{ResourceName: "r", Form: azuresim.AsNull}, true, false},
		"empty texts":      {azuresim.Device{}, false, false},
		"nulls":            {azuresim.Device{Form: azuresim.AsNull}, false, false},
		"left out":         {azuresim.Device{UserPrincipalName: "a@b", Form: azuresim.LeftOut}, false, true},
	} {
		simulate(t, func(w *world) {
			test.device.ID, test.device.SerialNumber = device(1).String(), "S1"
			w.cloud.PutDevice(test.device)
			for _, selectors := range [][]graph.Selector{ids(1), serials("S1"), append(ids(1), serials("S1")...)} {
				for _, found := range w.client.Find(w.t.Context(), selectors...) {
					account := found.Device.Account
					if found.Err != nil || account.Assigned() != test.assigned || account.Unknown != test.unknown {
						t.Errorf("%s: %+v, %v", name, account, found.Err)
					}
				}
			}
		})
	}
}
