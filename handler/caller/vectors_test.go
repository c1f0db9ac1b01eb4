package caller_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"autopilot-unassign/handler/caller"
)

// vector is an entry of testdata/signatures.json, which is for senders in any language. The signature is a list
// separated by spaces; one element is made with key. The body comes from request, where a sender must write it in ASCII.
type vector struct {
	Name, Key, ID string
	Timestamp     int64
	Request       json.RawMessage
	Body          string
	Signature     string
}

func readVectors(t *testing.T) []vector {
	t.Helper()
	text, err := os.ReadFile("testdata/signatures.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	if err := json.Unmarshal(text, &vectors); err != nil {
		t.Fatal(err)
	}
	return vectors
}

func TestSignatureVectors(t *testing.T) {
	vectors := readVectors(t)
	if first := vectors[0]; first.Key != vectorSecret || first.ID != vectorID || first.Timestamp != vectorTimestamp || first.Body != vectorBody || first.Signature != vectorSignature {
		t.Errorf("the first vector is not the published one: %+v", first)
	}
	for _, v := range vectors {
		key, err := caller.DecodeSignatureKey(v.Key)
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		if len(v.Request) > 0 {
			ascii := strings.IndexFunc(v.Body, func(c rune) bool { return c < ' ' || c > '~' }) < 0
			if !ascii || canonical(t, v.Body) != canonical(t, string(v.Request)) {
				t.Errorf("%s: the body is not the request, in ASCII", v.Name)
			}
		}
		at := time.Unix(v.Timestamp, 0)
		h := http.Header{}
		caller.Sign(h, key, v.ID, at, []byte(v.Body))
		if !slices.Contains(strings.Fields(v.Signature), h.Get("webhook-signature")) {
			t.Errorf("%s: Sign makes %s", v.Name, h.Get("webhook-signature"))
		}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
		r.Header.Set("webhook-id", v.ID)
		r.Header.Set("webhook-timestamp", fmt.Sprint(v.Timestamp))
		r.Header.Set("webhook-signature", v.Signature)
		verifier := caller.Signature{Keys: fixed{{Name: "vector", Value: key}}}
		// The vectors have times of long ago and far ahead. ErrExpired says that the signature is right.
		if _, err := verifier.Verify(r, []byte(v.Body)); !errors.Is(err, caller.ErrExpired) {
			t.Errorf("%s: Verify: %v, want ErrExpired", v.Name, err)
		}
		if _, err := verifier.Verify(r, []byte(v.Body+" ")); !errors.Is(err, caller.ErrDenied) {
			t.Errorf("%s: Verify of another body: %v, want ErrDenied", v.Name, err)
		}
	}
}

// canonical returns JSON in the one form that encoding/json has for it.
func canonical(t *testing.T, text string) string {
	t.Helper()
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Errorf("%v in %s", err, text)
	}
	written, err := json.Marshal(value)
	if err != nil {
		t.Error(err)
	}
	return string(written)
}

// The script for node in docs/callers.md signs like Sign.
func TestSignatureVectorsInNode(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Log("node is not there: the script was not run")
		return
	}
	command := exec.CommandContext(t.Context(), node, "--test", "--test-reporter=tap", "signatures.test.mjs")
	command.Dir = "testdata"
	out, err := command.CombinedOutput()
	if want := fmt.Sprintf("# pass %d\n", len(readVectors(t))); err != nil || !strings.Contains(string(out), want) {
		t.Errorf("%v, want %q in\n%s", err, want, out)
	}
}
