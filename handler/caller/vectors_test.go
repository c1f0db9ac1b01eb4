package caller_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"autopilot-unassign/handler/caller"
)

// The vectors are shared with the scripts of ServiceNow, which must make each of these signatures.
func TestSignatureSharedVectors(t *testing.T) {
	text, err := os.ReadFile("testdata/signatures.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Name, Secret, ID, Body, Signature string
		Timestamp                         int64
		Request                           json.RawMessage // what the body says, where it is a script that has to encode it
	}
	if err := json.Unmarshal(text, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) < 6 {
		t.Errorf("there are %d vectors", len(vectors))
	}
	for _, vector := range vectors {
		key, err := caller.DecodeSignatureKey(vector.Secret)
		if err != nil {
			t.Errorf("%s: %v", vector.Name, err)
			continue
		}
		if strings.IndexFunc(vector.Body, func(c rune) bool { return c < ' ' || c > '~' }) >= 0 {
			t.Errorf("%s: the body is not ASCII", vector.Name)
		}
		if len(vector.Request) > 0 {
			var said, meant any
			if json.Unmarshal([]byte(vector.Body), &said) != nil || json.Unmarshal(vector.Request, &meant) != nil || !equalJSON(said, meant) {
				t.Errorf("%s: the body does not say what the request does", vector.Name)
			}
		}
		at := time.Unix(vector.Timestamp, 0)
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/api/unassign", nil)
		r.Header.Set("webhook-id", vector.ID)
		r.Header.Set("webhook-timestamp", strconv.FormatInt(vector.Timestamp, 10))
		r.Header.Set("webhook-signature", vector.Signature)
		v := caller.Signature{Keys: fixed{{Name: "vector", Value: key}}, Tolerance: time.Minute, Now: clock(at)}
		if who, err := v.Verify(r, []byte(vector.Body)); err != nil || who.ID != "vector" {
			t.Errorf("%s: %v, %v", vector.Name, who, err)
		}
		if _, err := v.Verify(r, []byte(vector.Body+" ")); err == nil {
			t.Errorf("%s: another body verifies as well", vector.Name)
		}
	}
}

func equalJSON(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
