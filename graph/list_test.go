package graph_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"autopilot-unassign/graph"
	"autopilot-unassign/internal/azuresim"
)

// all reads the inventory within 25 seconds, and returns the numbers of the devices and the error, "" for none.
func (w *world) all() (numbers []string, end string) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 25*time.Second)
	defer cancel()
	for d, err := range w.client.All(ctx) {
		if err != nil {
			return numbers, ending(w.t, err)
		}
		wantNoPassword(w.t, d)
		numbers = append(numbers, number(d.ID))
	}
	return numbers, ""
}

// onePage returns a response that is a page of those devices and a link to the next, "" for none.
func onePage(link string, numbers ...int) azuresim.Fault {
	p := map[string]any{"value": []any{}}
	rows := []any{}
	for _, n := range numbers {
		rows = append(rows, azuresim.Device{ID: device(n).String(), SerialNumber: fmt.Sprint(n), DeviceAccountPassword: azuresim.FleetPassword})
	}
	if p["value"] = rows; link != "" {
		p["@odata.nextLink"] = link
	}
	text, err := json.Marshal(p)
	if err != nil {
		panic(err)
	}
	return azuresim.Body(200, "application/json", string(text))
}

// Each device of a fleet comes once, though every page begins with the last device of the page before.
func TestAllOfAFleet(t *testing.T) {
	simulate(t, func(w *world) {
		w.cloud.PutFleet(10_000)
		ids := map[string]bool{}
		for d, err := range w.client.All(w.t.Context()) {
			if err != nil || ids[d.ID.String()] {
				w.t.Fatalf("%v, %v", d.ID, err)
			}
			ids[d.ID.String()] = true
		}
		if pages := w.cloud.Count(azuresim.StepGraph); len(ids) != 10_000 || pages != 10 {
			w.t.Errorf("%d devices in %d pages", len(ids), pages)
		}
	})
}

func TestAll(t *testing.T) {
	next := devices + "?$skiptoken=LastSerialNumber='x'"
	for _, test := range []struct {
		name    string
		pages   []azuresim.Fault // one for each request; then the cloud responds, without a device
		numbers string
		end     string
		asked   int
	}{
		{"no device", nil, "", "", 1},
		{"one page", []azuresim.Fault{onePage("", 1, 2)}, "1,2", "", 1},
		{"two pages", []azuresim.Fault{onePage(next, 1, 2), onePage("", 3)}, "1,2,3", "", 2},
		{"a cursor that is inclusive", []azuresim.Fault{onePage(next, 1, 2), onePage("", 2, 3)}, "1,2,3", "", 2},
		{"rows that are repeated on a page", []azuresim.Fault{onePage("", 1, 1, 2, 1)}, "1,2", "", 1},
		{"a page that has nothing new, and is the last", []azuresim.Fault{onePage(next, 1, 2), onePage("", 2)}, "1,2", "", 2},
		{"a page that has nothing new, and is not", []azuresim.Fault{onePage(next, 1, 2), onePage(next+"'", 2)}, "1,2", "bad_answer", 2},
		{"a first page that is empty, and not the last", []azuresim.Fault{onePage(next), onePage("", 1)}, "1", "", 2},
		{"empty pages in the middle", []azuresim.Fault{onePage(next, 1, 2), onePage(next + "1"), onePage(next + "2"), onePage("", 2, 3)}, "1,2,3", "", 4},
		{"an empty page that links to itself", []azuresim.Fault{onePage(devices)}, "", "bad_answer", 1},
		{"a link to the same page", []azuresim.Fault{onePage(devices, 1)}, "1", "bad_answer", 1},
		{"a link to the page before", []azuresim.Fault{onePage(next, 1), onePage(devices, 2)}, "1,2", "bad_answer", 2},
		{"a link to another host", []azuresim.Fault{onePage(strings.Replace(next, "graph.microsoft.com", "graph.microsoft.com.stranger.example", 1), 1)}, "", "bad_answer", 1},
		{"a link to another port", []azuresim.Fault{onePage(strings.Replace(next, "graph.microsoft.com", "graph.microsoft.com:8443", 1), 1)}, "", "bad_answer", 1},
		{"a link by http", []azuresim.Fault{onePage(strings.Replace(next, "https", "http", 1), 1)}, "", "bad_answer", 1},
		{"a link with credentials", []azuresim.Fault{onePage(strings.Replace(next, "https://", "https://user:word@", 1), 1)}, "", "bad_answer", 1},
		{"a link without a host", []azuresim.Fault{onePage("/beta/deviceManagement", 1)}, "", "bad_answer", 1},
		{"a link that is none", []azuresim.Fault{onePage("https://graph.microsoft.com/%zz", 1)}, "", "bad_answer", 1},
		{"a link to another path there, which says 400", []azuresim.Fault{onePage(endpoint+"/beta/users", 1)}, "1", "rejected", 2},
		{"a page that says 503 once", []azuresim.Fault{onePage(next, 1), azuresim.Status(503), onePage("", 2)}, "1,2", "", 3},
		{"a page that says 500 for ever", []azuresim.Fault{onePage(next, 1), azuresim.Status(500), azuresim.Status(500), azuresim.Status(500)}, "1", "internal", 4},
		{"a page that says 404, which is not of a device", []azuresim.Fault{azuresim.Status(404)}, "", "rejected", 1},
		{"a page that breaks in the middle once", []azuresim.Fault{onePage(next, 1), azuresim.ResetMidBody(), onePage("", 2)}, "1,2", "", 3},
		{"a page that breaks for ever", []azuresim.Fault{onePage(next, 1), azuresim.ResetMidBody(), azuresim.ResetMidBody(), azuresim.ResetMidBody()}, "1", "bad_answer", 4},
		{"a page that is cut off for ever", []azuresim.Fault{onePage(next, 1), azuresim.Truncated(), azuresim.Truncated(), azuresim.Truncated()}, "1", "bad_answer", 4},
		{"a proxy's page, once", []azuresim.Fault{azuresim.WrongType(), onePage("", 1)}, "1", "", 2},
		{"an object that is no page, for ever", slices.Repeat([]azuresim.Fault{azuresim.Body(200, "application/json", `{"error":{"code":"x"}}`)}, 3), "", "bad_answer", 3},
		{"null for a page, once", []azuresim.Fault{onePage(next, 1), azuresim.Body(200, "application/json", `null`), onePage("", 2)}, "1,2", "", 3},
		{"odd rows", []azuresim.Fault{azuresim.Body(200, "application/json", `{"value":[{"serialNumber":"x"},null,7,[],{"id":"`+device(1).String()+`","serialNumber":7,"groupTag":[]},{"id":7}]}`)}, "1", "", 1},
		{"a page of a proxy, for ever", slices.Repeat([]azuresim.Fault{azuresim.Foreign(onePage("", 1))}, 3), "", "bad_answer", 3},
		{"a page that is larger than any", slices.Repeat([]azuresim.Fault{azuresim.Oversize(17 << 20)}, 3), "", "bad_answer", 3},
		{"a page that does not come", []azuresim.Fault{onePage(next, 1), azuresim.Hang(), azuresim.Hang(), azuresim.Hang()}, "1", "timeout", 4},
		{"a redirect", slices.Repeat([]azuresim.Fault{azuresim.Redirect("https://stranger.example/")}, 3), "", "bad_answer", 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			simulate(t, func(w *world) {
				for _, p := range test.pages {
					w.cloud.Fail(azuresim.StepGraph, 1, p)
				}
				numbers, end := w.all()
				if got, asked := strings.Join(numbers, ","), w.cloud.Count(azuresim.StepGraph); got != test.numbers || end != test.end || asked != test.asked {
					w.t.Errorf("%s, then %q, by %d requests\nwant %s, then %q, by %d", got, end, asked, test.numbers, test.end, test.asked)
				}
			})
		})
	}
}

// A link is followed as it stands: Graph refuses a link that has been encoded again.
func TestAllFollowsLinksToTheLetter(t *testing.T) {
	simulate(t, func(w *world) {
		link := devices + "?$skiptoken=LastSerialNumber%3d%27A%20b%2Fc%27&x=%C3%A5+%2B"
		w.cloud.Fail(azuresim.StepGraph, 1, onePage(link, 1))
		w.all()
		requests := w.cloud.Requests(azuresim.StepGraph)
		if got := devices + "?" + requests[1].RawQuery; got != link {
			w.t.Errorf("%s\nwant %s", got, link)
		}
	})
}

// A list of more than a thousand pages is an error.
func TestAllEndsAListWithoutAnEnd(t *testing.T) {
	simulate(t, func(w *world) {
		for n := range 1100 {
			w.cloud.Fail(azuresim.StepGraph, 1, onePage(fmt.Sprint(devices, "?$skiptoken=", n), n+1))
		}
		numbers, end := w.all()
		if len(numbers) != 1000 || end != "bad_answer" || w.cloud.Count(azuresim.StepGraph) != 1000 {
			w.t.Errorf("%d devices, then %q, by %d requests", len(numbers), end, w.cloud.Count(azuresim.StepGraph))
		}
	})
}

// A caller that stops causes no more requests.
func TestAllStops(t *testing.T) {
	simulate(t, func(w *world) {
		w.cloud.PutFleet(3000)
		for _, err := range w.client.All(w.t.Context()) {
			if err != nil {
				w.t.Error(err)
			}
			break
		}
		if asked := w.cloud.Count(azuresim.StepGraph); asked != 1 {
			w.t.Errorf("%d requests", asked)
		}
	})
}

// Pages, read by their tokens, hold each device once, though Graph begins a page with the last device of the page before.
func TestPage(t *testing.T) {
	simulate(t, func(w *world) {
		w.cloud.PutFleet(2500)
		var ids []string
		sizes := []int{}
		for token := ""; ; {
			page, next, err := w.client.Page(w.t.Context(), token)
			if err != nil || len(next) > 4096 {
				w.t.Fatalf("page %d: %v, token of %d bytes", len(sizes), err, len(next))
			}
			sizes = append(sizes, len(page))
			for _, d := range page {
				wantNoPassword(w.t, d)
				ids = append(ids, d.ID.String())
			}
			if token = next; token == "" {
				break
			}
			raw, err := base64.RawURLEncoding.DecodeString(token)
			if err != nil || strings.Contains(string(raw), "deviceManagement") || strings.Contains(string(raw), "graph.") {
				w.t.Errorf("%v: the token %q holds more than the paging query", err, raw)
			}
		}
		slices.Sort(ids)
		long := base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat("i", 16) + "$skip=" + strings.Repeat("1", 4<<10)))
		if _, _, err := w.client.Page(w.t.Context(), long); !errors.Is(err, graph.ErrPageToken) {
			w.t.Errorf("a token of %d bytes: %v", len(long), err)
		}
		if all := len(slices.Compact(slices.Clone(ids))); all != 2500 || len(ids) != 2500 || len(sizes) != 3 {
			w.t.Errorf("%d rows of %d devices on pages of %v", len(ids), all, sizes)
		}
	})
}

func TestPageLinks(t *testing.T) {
	next := devices + "?$skiptoken=LastSerialNumber='x'"
	for name, test := range map[string]struct {
		page  azuresim.Fault
		query string // of the request for the page after; "" where there is none
		err   string
	}{
		"the last page":                   {onePage("", 1), "", "<nil>"},
		"an empty page that is not last":  {onePage(next), "$skiptoken=LastSerialNumber='x'", "<nil>"},
		"encoded as Graph did":            {onePage(devices+"?%24skiptoken=A%20b%2Fc%27&x=1", 1), "%24skiptoken=A%20b%2Fc%27", "<nil>"},
		"a link with more than the page":  {onePage(next+"&$filter=x&$expand=y", 1), "$skiptoken=LastSerialNumber='x'", "<nil>"},
		"a link without a cursor":         {onePage(devices+"?$filter=x", 1), "", "bad_answer"},
		"a link to another path":          {onePage(endpoint+"/beta/users?$skiptoken=x", 1), "", "bad_answer"},
		"a link to another host":          {onePage("https://stranger.example/?$skiptoken=x", 1), "", "bad_answer"},
		"a cursor that is longer than 4K": {onePage(next+strings.Repeat("x", 4000), 1), "", "bad_answer"},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(w *world) {
				w.cloud.Fail(azuresim.StepGraph, 1, test.page)
				_, token, err := w.client.Page(w.t.Context(), "")
				if got := fmt.Sprint(err); !strings.Contains(got, test.err) || (token != "") != (test.query != "") {
					w.t.Fatalf("token %q, %v; want %s", token, err, test.err)
				}
				if token == "" {
					return
				}
				w.cloud.Fail(azuresim.StepGraph, 1, test.page)
				_, _, err = w.client.Page(w.t.Context(), token)
				if got := w.cloud.Requests(azuresim.StepGraph)[1].RawQuery; got != test.query || ending(w.t, err) != "bad_answer" {
					w.t.Errorf("then %q, %v; want %q, and an error of a page that leads to itself", got, err, test.query)
				}
			})
		})
	}
}

// FuzzPageToken holds the request for the page of any token to these properties:
//
//  1. It goes to the collection on Graph's own host, and its query pages and does nothing else.
//  2. A refused token causes no request.
func FuzzPageToken(f *testing.F) {
	id := strings.Repeat("0", 16)
	for _, query := range []string{"", "$skiptoken=x", "$skiptoken=x&$filter=y", "%24filter=x", "$skiptoken=x#y", "$top=1&$top=2", "../x", "$skiptoken=\r\nHost: x"} {
		f.Add(base64.RawURLEncoding.EncodeToString([]byte(id + query)))
	}
	f.Add("https://stranger.example/")
	f.Fuzz(func(t *testing.T, token string) {
		rec := &recorder{answers: []string{`{"value":[]}`}}
		_, _, err := rec.client(t).Page(t.Context(), token)
		if err != nil && len(rec.requests) != 0 {
			t.Fatalf("%v after %d requests", err, len(rec.requests))
		}
		for _, r := range rec.requests {
			if got := r.URL.Scheme + "://" + r.URL.Host + r.URL.Path; got != devices || r.URL.Fragment != "" {
				t.Fatalf("token %q: %s", token, r.URL)
			}
			for parameter := range strings.SplitSeq(r.URL.RawQuery, "&") {
				name, _, _ := strings.Cut(parameter, "=")
				name, _ = url.QueryUnescape(name)
				if !slices.Contains([]string{"", "$skiptoken", "$skip", "$top"}, strings.ToLower(name)) {
					t.Fatalf("token %q: %s", token, r.URL.RawQuery)
				}
			}
		}
	})
}

// A sample is one request for one device, or for a default page where Graph refuses that.
func TestSample(t *testing.T) {
	for name, test := range map[string]struct {
		devices int
		fault   azuresim.Fault
		times   int
		want    string
		queries []string
	}{
		"many":                        {3, azuresim.Fault{}, 0, "1 true <nil>", []string{"$top=1"}},
		"one":                         {1, azuresim.Fault{}, 0, "1 false <nil>", []string{"$top=1"}},
		"none":                        {0, azuresim.Fault{}, 0, "0 false <nil>", []string{"$top=1"}},
		"no page of one":              {3, azuresim.GraphError(400, azuresim.HTML, 0), 1, "3 false <nil>", []string{"$top=1", ""}},
		"a link that leads elsewhere": {3, onePage("https://stranger.example/", 1), 1, "3 false <nil>", []string{"$top=1", ""}},
		"no permission":               {3, azuresim.GraphError(403, azuresim.Nested, 0), -1, "0 false graph: forbidden (403 SimulatedFault)", []string{"$top=1"}},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(w *world) {
				w.cloud.PutFleet(test.devices)
				w.cloud.Fail(azuresim.StepGraph, test.times, test.fault)
				seen, more, err := w.client.Sample(w.t.Context())
				if got := fmt.Sprint(seen, more, err); !strings.HasPrefix(got, test.want) {
					w.t.Errorf("Sample = %s, want %s", got, test.want)
				}
				var queries []string
				for _, r := range w.cloud.Requests(azuresim.StepGraph) {
					queries = append(queries, r.RawQuery)
				}
				if !slices.Equal(queries, test.queries) {
					w.t.Errorf("Graph was asked %q, want %q", queries, test.queries)
				}
			})
		})
	}
}

// Requests name no encoding: net/http then asks for gzip and decompresses every response, also behind a proxy that
// compresses on its own.
func TestRequestsNameNoEncoding(t *testing.T) {
	r := &recorder{answers: []string{`{"value":[]}`}}
	client := r.client(t)
	client.Find(t.Context(), graph.Selector{ID: device(1)})
	client.UnassignResourceAccount(t.Context(), device(1))
	for _, err := range client.All(t.Context()) {
		t.Error(err)
	}
	for _, req := range r.requests {
		if encoding, ok := req.Header["Accept-Encoding"]; ok {
			t.Errorf("%s %s names %q", req.Method, req.URL.Path, encoding)
		}
	}
	if len(r.requests) != 3 {
		t.Errorf("%d requests", len(r.requests))
	}
}
