package graph_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"autopilot-unassign/graph"
	"autopilot-unassign/internal/upstream"
)

// The endpoint may have a slash at its end, and its scheme any case.
func TestEndpoint(t *testing.T) {
	for _, endpoint := range []string{"https://graph.example", "https://graph.example/", "HTTPS://graph.example"} {
		var asked string
		client, err := graph.New(endpoint, anyToken{}, graph.Options{Pace: graph.NewPace(), Transport: doer(func(r *http.Request) (*http.Response, error) {
			asked = r.URL.String()
			return &http.Response{StatusCode: http.StatusNoContent, Header: http.Header{"Request-Id": {"r-1"}}, Body: http.NoBody, Request: r}, nil
		})})
		if err != nil {
			t.Fatal(err)
		}
		client.UnassignResourceAccount(t.Context(), device(1))
		if want := "https://graph.example/beta/deviceManagement/windowsAutopilotDeviceIdentities/" + device(1).String() + "/unassignResourceAccountFromDevice"; asked != want {
			t.Errorf("%s: the request goes to %s, want %s", endpoint, asked, want)
		}
	}
}

// A Background client leaves only throttled writes to the pace. It retries other transient failures.
func TestBackgroundRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, test := range []struct{ status, tries int }{{http.StatusServiceUnavailable, 2}, {http.StatusTooManyRequests, 1}} {
			client, tries := answering(t, "", false, http.Response{StatusCode: test.status}, http.Response{StatusCode: http.StatusNoContent})
			client.Background().UnassignResourceAccount(t.Context(), device(1))
			if len(*tries) != test.tries {
				t.Errorf("%d tries after %d, want %d", len(*tries), test.status, test.tries)
			}
		}
	})
}

// A response that does not come to its end in time is a time-out without a status.
func TestBodyInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, err := graph.New(endpoint, anyToken{}, graph.Options{Pace: graph.NewPace(), Transport: doer(func(r *http.Request) (*http.Response, error) {
			return &http.Response{
				StatusCode: http.StatusOK, Header: http.Header{"Request-Id": {"r-1"}}, Request: r,
				Body: io.NopCloser(iotest.ErrReader(context.DeadlineExceeded)),
			}, nil
		})})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
		defer cancel()
		found := client.Find(ctx, graph.Selector{ID: device(1)})[0]
		failed, ok := errors.AsType[*upstream.Error](found.Err)
		if !ok || failed.Reason != upstream.Timeout || failed.Status != 0 {
			t.Errorf("%+v, want a time-out without a status", found.Err)
		}
	})
}
