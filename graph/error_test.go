package graph

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"autopilot-unassign/internal/upstream"
)

// The shapes of error bodies that Graph is known to send, with invented ids.
const (
	plain           = `{"error":{"code":"TooManyRequests","message":"Too many requests.","innerError":{"date":"2026-01-02T03:04:05","request-id":"11111111-2222-4333-8444-555555555555","client-request-id":"11111111-2222-4333-8444-555555555555"}}}`
	nested          = `{"error":{"code":"BadRequest","message":"{\r\n  \"_version\": 3,\r\n  \"Message\": \"An error has occurred - Operation ID (for customer support): 00000000-0000-0000-0000-000000000000 - Activity ID: 11111111-2222-4333-8444-555555555555 - Url: https://fef.msub01.manage.microsoft.com/canary\",\r\n  \"CustomApiErrorPhrase\": \"\",\r\n  \"RetryAfter\": null,\r\n  \"ErrorSourceService\": \"\",\r\n  \"HttpHeaders\": \"{}\"\r\n}","innerError":{}}}`
	doubly          = `{"error":{"code":"UnknownError","message":"{\"ErrorCode\":\"Forbidden\",\"Message\":\"{\\r\\n \\\"_version\\\": 3,\\r\\n \\\"Message\\\": \\\"Application is not authorized to perform this operation.\\\",\\r\\n \\\"RetryAfter\\\": null}\",\"Target\":null}","innerError":{}}}`
	html            = `{"error":{"code":"UnknownError","message":"<!DOCTYPE HTML PUBLIC><TITLE>Bad Request</TITLE>Bad Request - Invalid URL HTTP Error 400.","innerError":{}}}`
	route           = `{"error":{"code":"No method match route template","message":"No OData route exists that match template ~/singleton/navigation/key with http verb POST","innerError":{}}}`
	noJSON          = `<html><body>502 Bad Gateway canary</body></html>`
	notFound        = `{"error":{"code":"BadRequest","message":"{\"_version\":3,\"Message\":\"Cannot find device with ztd Id 6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a01 and accountId x to delete\",\"RetryAfter\":null}"}}`
	resource        = `{"error":{"code":"ResourceNotFound","message":"{\"_version\":3,\"Message\":\"An error has occurred\"}"}}`
	noIntune        = `{"error":{"code":"BadRequest","message":"Request not applicable to target tenant."}}`
	wrongRoot       = `{"error":{"code":"ResourceNotFound","message":"Invalid version: devicemanagement"}}`
	quirk           = `{"error":{"code":"InternalError","message":"{\"Message\":\"An internal server error has occurred\"}"}}`
	approval        = `{"error":{"code":"BadRequest","message":"{\r\n \"_version\": 3,\r\n \"Message\": \"Header 'x-msft-approval-justification' is required to request approval - Operation ID (for customer support): 0\"}"}}`
	cancelled       = `{"error":{"code":"CancelledOnServiceTimeout","message":"{\"_version\":3,\"Message\":\"ScenarioTimeout=15000ms\"}"}}`
	cancelledInside = `{"error":{"code":"UnknownError","message":"{\"_version\":3,\"Message\":\"CancelOnTimeout for #6374\"}"}}`
	waitText        = `{"error":{"code":"TooManyRequests","message":"{\"Message\":\"slow down\",\"RetryAfter\":\"12\"}"}}`
	waitNum         = `{"error":{"code":"TooManyRequests","message":"{\"ErrorCode\":\"x\",\"Message\":\"{\\\"Message\\\":\\\"slow down\\\",\\\"RetryAfter\\\":7}\"}"}}`
)

func TestClassifyFailure(t *testing.T) {
	for name, test := range map[string]struct {
		status int
		body   string
		want   upstream.Error
	}{
		"shape A, throttled":                {429, plain, upstream.Error{Reason: upstream.Throttled, Code: "TooManyRequests"}},
		"shape B, throttled":                {429, nested, upstream.Error{Reason: upstream.Throttled, Code: "BadRequest"}},
		"shape B, refused":                  {400, nested, upstream.Error{Reason: upstream.Rejected, Code: "BadRequest"}},
		"shape C, forbidden as 401":         {401, doubly, upstream.Error{Reason: upstream.Forbidden, Code: "Forbidden"}},
		"shape B, forbidden":                {403, nested, upstream.Error{Reason: upstream.Forbidden, Code: "BadRequest"}},
		"shape D, HTML in the message":      {400, html, upstream.Error{Reason: upstream.Rejected, Code: "UnknownError"}},
		"shape E, a sentence as code":       {400, route, upstream.Error{Reason: upstream.Rejected, Code: "No method match route template"}},
		"shape F, an edge":                  {502, noJSON, upstream.Error{Reason: upstream.Internal}},
		"shape F, an edge is unavailable":   {503, noJSON, upstream.Error{Reason: upstream.Unavailable}},
		"no device, 404":                    {404, resource, upstream.Error{Reason: upstream.NotFound, Code: "ResourceNotFound"}},
		"no device, 404 without a body":     {404, "", upstream.Error{Reason: upstream.NotFound}},
		"no device, 400 by its text":        {400, notFound, upstream.Error{Reason: upstream.NotFound, Code: "BadRequest"}},
		"no device, 400 by its code":        {400, resource, upstream.Error{Reason: upstream.NotFound, Code: "ResourceNotFound"}},
		"a tenant without Intune":           {400, noIntune, upstream.Error{Reason: upstream.TenantNotEnabled, Code: "BadRequest"}},
		"a wrong root is no missing device": {404, wrongRoot, upstream.Error{Reason: upstream.Rejected, Code: "ResourceNotFound"}},
		"400 that is a 500":                 {400, quirk, upstream.Error{Reason: upstream.Internal, Code: "InternalError"}},
		"the wait in the body, as text":     {429, waitText, upstream.Error{Reason: upstream.Throttled, Code: "TooManyRequests", RetryAfter: 12 * time.Second}},
		"the wait in the body, deeper":      {429, waitNum, upstream.Error{Reason: upstream.Throttled, Code: "TooManyRequests", RetryAfter: 7 * time.Second}},
		"conflict":                          {409, nested, upstream.Error{Reason: upstream.Conflict, Code: "BadRequest"}},
		"precondition":                      {412, nested, upstream.Error{Reason: upstream.StateChanged, Code: "BadRequest"}},
		"locked":                            {423, nested, upstream.Error{Reason: upstream.Locked, Code: "BadRequest"}},
		"request time-out":                  {408, "", upstream.Error{Reason: upstream.Unavailable}},
		"failed":                            {500, nested, upstream.Error{Reason: upstream.Internal, Code: "BadRequest"}},
		"gateway time-out":                  {504, noJSON, upstream.Error{Reason: upstream.Timeout}},
		"an unknown status":                 {599, "", upstream.Error{Reason: upstream.Internal}},
		"redirect":                          {307, "", upstream.Error{Reason: upstream.BadAnswer}},
		"approval required, 400":            {400, approval, upstream.Error{Reason: upstream.ApprovalRequired, Code: "BadRequest"}},
		"approval required, 403":            {403, approval, upstream.Error{Reason: upstream.ApprovalRequired, Code: "BadRequest"}},
		"carried out, and then 503":         {503, cancelled, upstream.Error{Reason: upstream.Timeout, Code: "CancelledOnServiceTimeout"}},
		"503 that says so inside alone":     {503, cancelledInside, upstream.Error{Reason: upstream.Timeout, Code: "UnknownError"}},
		"unprocessable":                     {422, plain, upstream.Error{Reason: upstream.Rejected, Code: "TooManyRequests"}},
	} {
		want := test.want
		want.Service, want.Status, want.RequestID = upstream.Graph, test.status, "r-1"
		got := classifyFailure(test.status, http.Header{"Request-Id": {"r-1"}}, []byte(test.body))
		if *got != want {
			t.Errorf("%s: %+v\nwant %+v", name, *got, want)
		}
		if strings.Contains(got.Error(), "canary") || strings.Contains(got.Error(), "manage.microsoft.com") {
			t.Errorf("%s: the body got through: %v", name, got)
		}
	}
	for header, want := range map[string]string{"5f-1_A": "5f-1_A", "<script>": "", strings.Repeat("x", 65): "", "a\u202eb": ""} {
		if got := classifyFailure(404, http.Header{"Request-Id": {header}}, nil).RequestID; got != want {
			t.Errorf("the request-id %q becomes %q", header, got)
		}
	}
	got := classifyFailure(429, http.Header{"Retry-After": {"3"}}, []byte(waitText))
	if got.RetryAfter != 3*time.Second {
		t.Errorf("header 3 s, body 12 s: %v", got.RetryAfter)
	}
}

// FuzzClassifyFailure holds the classification of any error body to these properties:
//  1. It does not panic, and always has a reason.
//  2. The status decides between the classes: a 401 or 403 is Forbidden or ApprovalRequired, a 429 Throttled and a 5xx never
//     the caller's fault, for any body.
//  3. The code and the wait are reduced, and so is the request-id of the header.
func FuzzClassifyFailure(f *testing.F) {
	for _, body := range []string{plain, nested, doubly, html, route, noJSON, notFound, resource, noIntune, wrongRoot, quirk, waitText, waitNum, approval, cancelled, "", "null", `{"error":null}`, `{"error":{"code":"\u202e"}}`} {
		for _, status := range []int{400, 401, 404, 429, 503} {
			f.Add(status, []byte(body), "5f-1")
		}
	}
	f.Fuzz(func(t *testing.T, status int, body []byte, id string) {
		if status < 300 || status > 599 {
			return
		}
		e := classifyFailure(status, http.Header{"Request-Id": {id}}, body)
		approval := e.Reason == upstream.ApprovalRequired && status >= 400 && status < 500
		switch {
		case e.Service != upstream.Graph || e.Reason == "" || e.Status != status:
			t.Fatalf("%d %q: %+v", status, body, e)
		case upstream.PlainCode(e.RequestID) != e.RequestID:
			t.Fatalf("%q: the request-id is %q", id, e.RequestID)
		case (status == 401 || status == 403) != (e.Reason == upstream.Forbidden) && !approval:
			t.Fatalf("%d %q: %s", status, body, e.Reason)
		case status == 429 && e.Reason != upstream.Throttled && !approval:
			t.Fatalf("%d %q: %s", status, body, e.Reason)
		case status >= 500 && e.Reason != upstream.Internal && e.Reason != upstream.Unavailable && e.Reason != upstream.Timeout:
			t.Fatalf("%d %q: %s", status, body, e.Reason)
		case upstream.PlainCode(e.Code) != e.Code || e.RetryAfter < 0 || e.RetryAfter > 24*time.Hour:
			t.Fatalf("%d %q: kept %q and %v", status, body, e.Code, e.RetryAfter)
		}
	})
}
