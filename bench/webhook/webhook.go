// Package webhook does the least that POST /api/unassign takes: it checks the signature, reads the id of the device
// and calls a function with it. The floor and the SDK's way share it, so that they differ in that function alone.
package webhook

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// Unassign removes the account of a device.
type Unassign func(ctx context.Context, id string) error

// ParseKey returns a key from its form in the vault.
func ParseKey(stored string) ([]byte, error) {
	return base64.StdEncoding.DecodeString(strings.TrimPrefix(stored, "whsec_"))
}

// Serve serves the port in the environment, with a key in its form in the vault, until it fails.
func Serve(stored string, unassign Unassign) error {
	key, err := ParseKey(stored)
	if err != nil {
		return err
	}
	routes := http.NewServeMux()
	routes.HandleFunc("POST /api/unassign", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 16<<10))
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.WriteHeader(Answer(r.Context(), key, r.Header, body, unassign))
	})
	server := &http.Server{
		Addr: net.JoinHostPort("127.0.0.1", os.Getenv("PORT")), Handler: routes,
		ReadHeaderTimeout: 10 * time.Second,
	}
	return server.ListenAndServe()
}

// Answer handles a request and returns the status of the response.
func Answer(ctx context.Context, key []byte, h http.Header, body []byte, unassign Unassign) int {
	if !isAuthentic(key, h, body) {
		return http.StatusUnauthorized
	}
	var request struct {
		DeviceID string `json:"deviceId"`
	}
	if json.Unmarshal(body, &request) != nil || request.DeviceID == "" {
		return http.StatusBadRequest
	}
	if err := unassign(ctx, request.DeviceID); err != nil {
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		return http.StatusBadGateway
	}
	return http.StatusNoContent
}

// isAuthentic reports whether the signature of a request is right and at most five minutes old.
func isAuthentic(key []byte, h http.Header, body []byte) bool {
	sent, err := strconv.ParseInt(h.Get("Webhook-Timestamp"), 10, 64)
	if err != nil || time.Since(time.Unix(sent, 0)).Abs() > 5*time.Minute {
		return false
	}
	mac := hmac.New(sha256.New, key)
	for _, part := range [][]byte{
		[]byte(h.Get("Webhook-Id")), []byte("."), []byte(h.Get("Webhook-Timestamp")),
		[]byte("."), body,
	} {
		_, _ = mac.Write(part) // never fails
	}
	return hmac.Equal([]byte(h.Get("Webhook-Signature")), []byte("v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil))))
}
