package caller_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"autopilot-unassign/handler/caller"
)

// fixed are keys that do not change.
type fixed []caller.Key

func (f fixed) Current(context.Context) ([]caller.Key, error) { return f, nil }
func (f fixed) Refresh(context.Context) ([]caller.Key, error) { return f, nil }

func named(name, value string) caller.Key { return caller.Key{Name: name, Value: []byte(value)} }

const (
	oldKey   = "old-key-0123456789abcdefghij"
	newKey   = "new-key-0123456789abcdefghij"
	otherKey = "other-key-0123456789abcdefgh"
)

// signed returns a request with the body {}, signed with key at that time.
func signed(tb testing.TB, key string, at time.Time) *http.Request {
	tb.Helper()
	const body = "{}"
	r := httptest.NewRequestWithContext(tb.Context(), http.MethodPost, "/api/unassign", strings.NewReader(body))
	caller.Sign(r.Header, []byte(key), "msg_1", at, []byte(body))
	return r
}

// verifyAt has v verify a request at a time.
func verifyAt(
	t *testing.T, at time.Time, v caller.Verifier, r *http.Request, body string,
) (who caller.Caller, err error) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		time.Sleep(time.Until(at))
		who, err = v.Verify(r, []byte(body))
	})
	return who, err
}

// The vector of the Standard Webhooks specification.
const (
	vectorSecret    = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	vectorID        = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	vectorTimestamp = 1614265330
	vectorBody      = `{"test": 2432232314}`
	vectorSignature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
)

func TestSignaturePublishedVector(t *testing.T) {
	key, err := caller.DecodeSignatureKey(vectorSecret)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(vectorTimestamp, 0)
	h := http.Header{}
	caller.Sign(h, key, vectorID, at, []byte(vectorBody))
	if got := h.Get("webhook-signature"); got != vectorSignature {
		t.Errorf("Sign makes %s, the specification %s", got, vectorSignature)
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
	r.Header.Set("webhook-id", vectorID)
	r.Header.Set("webhook-timestamp", fmt.Sprint(vectorTimestamp))
	r.Header.Set("webhook-signature", vectorSignature)
	v := caller.Signature{Keys: fixed{{Name: "vector", Value: key}}, Tolerance: 300 * time.Second}
	who, err := verifyAt(t, at, &v, r, vectorBody)
	if err != nil || who != (caller.Caller{Kind: caller.KindSignature, ID: "vector", Delivery: vectorID}) {
		t.Errorf("Verify = %v, %v", who, err)
	}
}

func TestSignatureKeysInRotation(t *testing.T) {
	now := time.Now()
	keys := map[string]fixed{
		"old":         {named("old", oldKey)},
		"new":         {named("new", newKey)},
		"old and new": {named("old", oldKey), named("new", newKey)},
		"no key":      {},
	}
	for _, test := range []struct {
		known    string
		signedBy []string // keys, one signature each
		want     string   // the name of the key, "" for a refusal
	}{
		{"old", []string{oldKey}, "old"},
		{"old", []string{newKey}, ""},
		{"old", []string{oldKey, newKey}, "old"},
		{"old", []string{otherKey}, ""},
		{"new", []string{oldKey}, ""},
		{"new", []string{newKey}, "new"},
		{"new", []string{oldKey, newKey}, "new"},
		{"new", []string{otherKey}, ""},
		{"old and new", []string{oldKey}, "old"},
		{"old and new", []string{newKey}, "new"},
		{"old and new", []string{newKey, oldKey}, "new"},
		{"old and new", []string{otherKey}, ""},
		{"old and new", []string{otherKey, newKey}, "new"},
		{"no key", []string{oldKey}, ""},
		{"no key", []string{""}, ""},
	} {
		t.Run(fmt.Sprint(test.known, " signed by ", test.signedBy), func(t *testing.T) {
			var signatures []string
			for _, key := range test.signedBy {
				signatures = append(signatures, signed(t, key, now).Header.Get("webhook-signature"))
			}
			r := signed(t, test.signedBy[0], now)
			r.Header.Set("webhook-signature", strings.Join(signatures, " "))
			v := caller.Signature{Keys: keys[test.known], Tolerance: 300 * time.Second}
			who, err := v.Verify(r, []byte("{}"))
			if test.want == "" && !errors.Is(err, caller.ErrDenied) {
				t.Errorf("Verify = %v, %v; want ErrDenied", who, err)
			}
			if test.want != "" && (err != nil || who.ID != test.want) {
				t.Errorf("Verify = %v, %v; want %s", who, err, test.want)
			}
		})
	}
}

func TestSignatureTimeWindow(t *testing.T) {
	now := time.Unix(1_700_000_000, 999_000_000) // late in its second, which must not count
	for _, test := range []struct {
		offset  int // seconds
		refused bool
	}{{-301, true}, {-300, false}, {0, false}, {300, false}, {301, true}, {-365 * 86400, true}, {365 * 86400, true}} {
		r := signed(t, oldKey, time.Unix(now.Unix()+int64(test.offset), 0))
		v := caller.Signature{Keys: fixed{named("old", oldKey)}, Tolerance: 300 * time.Second}
		_, err := verifyAt(t, now, &v, r, "{}")
		if test.refused != errors.Is(err, caller.ErrExpired) || (!test.refused && err != nil) {
			t.Errorf("at %+d s: %v", test.offset, err)
		}
		// A stranger does not learn about the window.
		r = signed(t, otherKey, time.Unix(now.Unix()+int64(test.offset), 0))
		if _, err := verifyAt(t, now, &v, r, "{}"); !errors.Is(err, caller.ErrDenied) {
			t.Errorf("at %+d s, signed with an unknown key: %v, want ErrDenied", test.offset, err)
		}
	}
}

func TestSignatureForm(t *testing.T) {
	now := time.Now()
	set := func(name, value string) func(http.Header) { return func(h http.Header) { h.Set(name, value) } }
	for name, change := range map[string]func(http.Header){
		"a dot in the id":              func(h http.Header) { caller.Sign(h, []byte(oldKey), "msg.1", now, []byte("{}")) },
		"a space in the id":            func(h http.Header) { caller.Sign(h, []byte(oldKey), "msg 1", now, []byte("{}")) },
		"an empty id":                  func(h http.Header) { caller.Sign(h, []byte(oldKey), "", now, []byte("{}")) },
		"an id of 129 characters":      func(h http.Header) { caller.Sign(h, []byte(oldKey), strings.Repeat("a", 129), now, []byte("{}")) },
		"no id":                        func(h http.Header) { h.Del("webhook-id") },
		"no timestamp":                 func(h http.Header) { h.Del("webhook-timestamp") },
		"no signature":                 func(h http.Header) { h.Del("webhook-signature") },
		"two ids":                      func(h http.Header) { h.Add("webhook-id", "msg_1") },
		"two timestamps":               func(h http.Header) { h.Add("webhook-timestamp", h.Get("webhook-timestamp")) },
		"two signature headers":        func(h http.Header) { h.Add("webhook-signature", h.Get("webhook-signature")) },
		"a timestamp with a sign":      func(h http.Header) { h.Set("webhook-timestamp", "+"+h.Get("webhook-timestamp")) },
		"a negative timestamp":         set("webhook-timestamp", "-1"),
		"a timestamp in words":         set("webhook-timestamp", "now"),
		"a timestamp beyond all times": set("webhook-timestamp", "99999999999999999999"),
		"a signature of another version": func(h http.Header) {
			h.Set("webhook-signature", strings.Replace(h.Get("webhook-signature"), "v1,", "v2,", 1))
		},
		"a signature with no version":    func(h http.Header) { h.Set("webhook-signature", strings.TrimPrefix(h.Get("webhook-signature"), "v1,")) },
		"a signature that is not base64": set("webhook-signature", "v1,???"),
		"a short signature":              set("webhook-signature", "v1,"+base64.StdEncoding.EncodeToString([]byte("short"))),
		"an empty signature":             set("webhook-signature", ""),
		"3 KiB of signatures": func(h http.Header) {
			h.Set("webhook-signature", strings.Repeat("v1a,x ", 512)+h.Get("webhook-signature"))
		},
		"the right signature behind 16 others": func(h http.Header) {
			wrong := "v1," + base64.StdEncoding.EncodeToString(make([]byte, 32)) + " "
			h.Set("webhook-signature", strings.Repeat(wrong, 16)+h.Get("webhook-signature"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := signed(t, oldKey, now)
			change(r.Header)
			v := caller.Signature{Keys: fixed{named("old", oldKey)}, Tolerance: 300 * time.Second}
			if who, err := v.Verify(r, []byte("{}")); !errors.Is(err, caller.ErrDenied) {
				t.Errorf("Verify = %v, %v; want ErrDenied", who, err)
			}
		})
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
	if _, err := (&caller.Signature{}).Verify(r, nil); !errors.Is(err, caller.ErrNoEvidence) {
		t.Errorf("a request without the headers: %v, want ErrNoEvidence", err)
	}
}

// rotating are keys of which the current ones are out of date.
type rotating struct {
	current, fresh fixed
	currentErr     error
	refreshed      int
}

func (k *rotating) Current(context.Context) ([]caller.Key, error) { return k.current, k.currentErr }

func (k *rotating) Refresh(context.Context) ([]caller.Key, error) {
	k.refreshed++
	return k.fresh, nil
}

func TestMatchReadsKeysAgain(t *testing.T) {
	now := time.Now()
	down := errors.New("vault is down")
	for name, test := range map[string]struct {
		keys      rotating
		signedBy  string
		want      error
		refreshed int
	}{
		"a current key fits":              {rotating{current: fixed{named("old", oldKey)}}, oldKey, nil, 0},
		"a fresh key fits":                {rotating{current: fixed{named("old", oldKey)}, fresh: fixed{named("new", newKey)}}, newKey, nil, 1},
		"no key fits":                     {rotating{current: fixed{named("old", oldKey)}, fresh: fixed{named("old", oldKey)}}, otherKey, caller.ErrDenied, 1},
		"a key fits though others unread": {rotating{current: fixed{named("old", oldKey)}, currentErr: down}, oldKey, nil, 0},
		"an unread key might have fitted": {rotating{current: fixed{named("old", oldKey)}, currentErr: down}, otherKey, down, 0},
		"no key could be read":            {rotating{currentErr: down}, oldKey, down, 0},
	} {
		t.Run(name, func(t *testing.T) {
			keys := test.keys
			for _, v := range []caller.Verifier{
				&caller.Signature{Keys: &keys, Tolerance: time.Minute},
				&caller.APIKey{Keys: &keys},
			} {
				keys.refreshed = 0
				r := signed(t, test.signedBy, now)
				r.Header.Set("x-api-key", test.signedBy)
				if _, err := v.Verify(r, []byte("{}")); !errors.Is(err, test.want) || keys.refreshed != test.refreshed {
					t.Errorf("%T: %v after %d refreshes; want %v after %d", v, err, keys.refreshed, test.want, test.refreshed)
				}
			}
		})
	}
}

func TestAPIKey(t *testing.T) {
	v := &caller.APIKey{Keys: fixed{named("old", oldKey), named("new", newKey)}}
	for name, test := range map[string]struct {
		sent []string
		want string // the name of the key
		err  error
	}{
		"none":             {nil, "", caller.ErrNoEvidence},
		"the first":        {[]string{oldKey}, "old", nil},
		"the second":       {[]string{newKey}, "new", nil},
		"another":          {[]string{otherKey}, "", caller.ErrDenied},
		"a prefix":         {[]string{oldKey[:20]}, "", caller.ErrDenied},
		"empty":            {[]string{""}, "", caller.ErrDenied},
		"the same twice":   {[]string{oldKey, oldKey}, "", caller.ErrDenied},
		"of 3 KiB":         {[]string{strings.Repeat("k", 3<<10)}, "", caller.ErrDenied},
		"in another case":  {[]string{strings.ToUpper(oldKey)}, "", caller.ErrDenied},
		"white space near": {[]string{oldKey + " "}, "", caller.ErrDenied},
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
		r.Header["X-Api-Key"] = test.sent
		who, err := v.Verify(r, nil)
		if !errors.Is(err, test.err) || who.ID != test.want {
			t.Errorf("%s: Verify = %v, %v; want %q, %v", name, who, err, test.want, test.err)
		}
	}
}

// The time of a comparison does not tell which key matched: all are compared, and the last one counts.
func TestAllAPIKeysAreCompared(t *testing.T) {
	v := &caller.APIKey{Keys: fixed{named("first", oldKey), named("last", oldKey)}}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
	r.Header.Set("X-Api-Key", oldKey)
	if who, err := v.Verify(r, nil); err != nil || who.ID != "last" {
		t.Errorf("Verify = %v, %v", who, err)
	}
}

func TestAny(t *testing.T) {
	down := errors.New("vault is down")
	accepts := verdict{who: caller.Caller{Kind: "test", ID: "me"}}
	none, denied, expired, unread := verdict{err: caller.ErrNoEvidence}, verdict{err: caller.ErrDenied}, verdict{err: caller.ErrExpired}, verdict{err: down}
	forbidden := verdict{who: caller.Caller{Kind: "test", ID: "another"}, err: caller.ErrForbidden}
	for _, test := range []struct {
		asked []caller.Verifier
		want  error
	}{
		{nil, caller.ErrNoEvidence},
		{[]caller.Verifier{none, none}, caller.ErrNoEvidence},
		{[]caller.Verifier{none, denied}, caller.ErrDenied},
		{[]caller.Verifier{denied, accepts}, nil},
		{[]caller.Verifier{expired, denied}, caller.ErrExpired},
		{[]caller.Verifier{expired, forbidden, denied}, caller.ErrForbidden},
		{[]caller.Verifier{forbidden, unread}, down},
		{[]caller.Verifier{forbidden, accepts}, nil},
		{[]caller.Verifier{unread, expired, denied}, down},
		{[]caller.Verifier{unread, accepts}, nil},
	} {
		who, err := caller.Any(test.asked...).Verify(nil, nil)
		if !errors.Is(err, test.want) || (test.want == nil) != (who == accepts.who) || errors.Is(err, caller.ErrForbidden) != (who == forbidden.who) {
			t.Errorf("%v: Verify = %v, %v; want %v", test.asked, who, err, test.want)
		}
	}
}

type verdict struct {
	who caller.Caller
	err error
}

func (v verdict) Verify(*http.Request, []byte) (caller.Caller, error) { return v.who, v.err }

func TestDecodeKeys(t *testing.T) {
	long := strings.Repeat("k", 24)
	encoded := base64.StdEncoding.EncodeToString([]byte(long))
	for _, test := range []struct {
		text string
		ok   bool
	}{
		{"whsec_" + encoded, true},
		{encoded, true},
		{" whsec_" + encoded + "\n", true},
		{"whsec_" + base64.StdEncoding.EncodeToString([]byte(long[1:])), false},
		{"whsec_", false},
		{"", false},
		{"not base64!", false},
	} {
		key, err := caller.DecodeSignatureKey(test.text)
		if (err == nil) != test.ok || (test.ok && string(key) != long) {
			t.Errorf("DecodeSignatureKey(%q) = %q, %v", test.text, key, err)
		}
	}
	if key, err := caller.DecodeAPIKey(long + "\n"); err != nil || string(key) != long {
		t.Errorf("DecodeAPIKey of 24 bytes = %q, %v", key, err)
	}
	if _, err := caller.DecodeAPIKey(long[1:]); !errors.Is(err, caller.ErrWeakKey) {
		t.Errorf("DecodeAPIKey of 23 bytes: %v, want ErrWeakKey", err)
	}
}

// FuzzSignature mutates a signed message. Properties:
//  1. The message verifies as it was signed.
//  2. It verifies with no other id, timestamp, body or signature.
func FuzzSignature(f *testing.F) {
	const id, body = "msg_1", `{"deviceId":"6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a01"}`
	at := time.Unix(1_700_000_000, 0)
	h := http.Header{}
	caller.Sign(h, []byte(oldKey), id, at, []byte(body))
	timestamp, signature := h.Get("webhook-timestamp"), h.Get("webhook-signature")

	f.Add(id, timestamp, signature, []byte(body))
	f.Add("msg_1.1700000000", "1700000000", signature, []byte(body))
	f.Add("msg", "_1.1700000000", signature, []byte(body))
	f.Add(id, "+1700000000", signature, []byte(body))
	f.Add(id, "01700000000", signature, []byte(body))
	f.Add(id, timestamp, signature+" "+signature, []byte(body))
	f.Add(id, timestamp, "v1,", []byte(body))
	f.Add(id, timestamp, strings.TrimRight(signature, "="), []byte(body))
	f.Add(id, timestamp, signature[:20]+"\r"+signature[20:], []byte(body))
	f.Add(id, timestamp, signature, []byte(strings.ToUpper(body)))
	f.Add(id, timestamp, signature, append([]byte(body), ' '))
	f.Fuzz(func(t *testing.T, gotID, gotTimestamp, gotSignature string, gotBody []byte) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
		r.Header["Webhook-Id"] = []string{gotID}
		r.Header["Webhook-Timestamp"] = []string{gotTimestamp}
		r.Header["Webhook-Signature"] = []string{gotSignature}
		v := caller.Signature{Keys: fixed{named("old", oldKey)}, Tolerance: time.Minute}
		_, err := verifyAt(t, at, &v, r, string(gotBody))
		if gotID == id && gotTimestamp == timestamp && gotSignature == signature && string(gotBody) == body {
			if err != nil {
				t.Fatalf("the message as signed: %v", err)
			}
			return
		}
		signedPart := gotID == id && gotTimestamp == timestamp && string(gotBody) == body
		listed := strings.Contains(" "+gotSignature+" ", " "+signature+" ")
		if err == nil && (!signedPart || !listed) {
			t.Fatalf("accepted id %q, timestamp %q, signature %q, body %q", gotID, gotTimestamp, gotSignature, gotBody)
		}
	})
}

// Any one header of the scheme is evidence.
func TestMayCarryEvidence(t *testing.T) {
	v := caller.Any(&caller.Signature{}, &caller.APIKey{})
	for name, want := range map[string]bool{
		"Webhook-Id": true, "Webhook-Timestamp": true, "Webhook-Signature": true, "X-Api-Key": true, "Accept": false,
	} {
		if got := caller.MayCarryEvidence(v, http.Header{name: {"x"}}); got != want {
			t.Errorf("%s: %t, want %t", name, got, want)
		}
	}
}
