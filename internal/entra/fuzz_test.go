package entra_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/hosttest/simulated"
	"autopilot-unassign/internal/upstream"
)

// FuzzReduce has a step of getting a token return any response. Properties of an error:
//  1. It is an *upstream.Error without the library's error inside.
//  2. Its text, the log and its log value have nothing of the response except a short and plain code.
//  3. It does not say that a device may have been acted on.
func FuzzReduce(f *testing.F) {
	for step := range simulated.ColdSteps {
		for _, seed := range []struct {
			status int
			kind   string
			body   string
		}{
			{
				400, "application/json",
				`{"error":"invalid_client","error_description":"AADSTS7000215: x","error_codes":[7000215]}`,
			},
			{401, "application/json", `{"error":"invalid_request","error_codes":[9000000000000000000]}`},
			{403, "application/json", `{"error":{"code":"Forbidden","innererror":{"code":"SecretDisabled"}}}`},
			{404, "text/html", `<html>`},
			{429, "", ``},
			{503, "application/json", `null`},
			{307, "text/plain", `moved`},
			{200, "application/json", `{"access_token":"eyJ`},
			{200, "application/json", `{"value":1,"id":[]}`},
			{200, "application/json", `[]`},
			{200, "application/json", `{"value":"x","id":"//","attributes":{"exp":-1}}`},
		} {
			f.Add(step, seed.status, seed.kind, []byte(seed.body))
		}
	}
	f.Fuzz(func(t *testing.T, step, status int, kind string, body []byte) {
		if step < 0 || step >= len(simulated.ColdSteps) || status < 200 || status > 599 || strings.ContainsAny(kind, "\r\n\x00") {
			return
		}
		const canary = "zqxcanary"
		simulate(t, func(w *world) {
			w.Cloud.Fail(simulated.ColdSteps[step], -1, azuresim.Body(status, kind, string(body)+canary))
			_, err := w.appSecret().GetToken(w.T.Context(), graphToken)
			if err == nil {
				return
			}
			failed, ok := errors.AsType[*upstream.Error](err)
			if !ok || errors.Unwrap(failed) != nil || failed.MaybeDone || failed.Reason == "" ||
				upstream.PlainCode(failed.Code) != failed.Code {
				t.Fatalf("%#v", err)
			}
			var logged bytes.Buffer
			slog.New(slog.NewJSONHandler(&logged, nil)).Error("x", slog.Any("error", failed))
			for _, text := range []string{failed.Error(), logged.String(), w.Log.String()} {
				if strings.Contains(text, canary) {
					t.Fatalf("the answer is in %s", text)
				}
			}
		})
	})
}
