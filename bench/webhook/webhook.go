// Package webhook is the least that a server does for POST /api/unassign: it checks the signature, reads the id of the
// device and has something done with it. The floor and the SDK's way share it, so that they differ in that alone.
package webhook

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// Serve answers on the port that is in the environment, with the key as the vault has it, until it fails.
func Serve(key string, unassign func(ctx context.Context, id string) error) error {
	mac, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(key, "whsec_"))
	if err != nil {
		return errors.New("the signing key is not base64")
	}
	routes := http.NewServeMux()
	routes.HandleFunc("POST /api/unassign", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 16<<10))
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if !authentic(mac, r.Header, body) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		var asked struct {
			DeviceID string `json:"deviceId"`
		}
		if json.Unmarshal(body, &asked) != nil || asked.DeviceID == "" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if err := unassign(r.Context(), asked.DeviceID); err != nil {
			_, _ = os.Stderr.WriteString(err.Error() + "\n")
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	server := &http.Server{Addr: net.JoinHostPort("127.0.0.1", os.Getenv("PORT")), Handler: routes, ReadHeaderTimeout: 10 * time.Second}
	return server.ListenAndServe()
}

// authentic reports whether the one signature of a request is right and five minutes old at most.
func authentic(key []byte, h http.Header, body []byte) bool {
	sent, err := strconv.ParseInt(h.Get("Webhook-Timestamp"), 10, 64)
	if err != nil || time.Since(time.Unix(sent, 0)).Abs() > 5*time.Minute {
		return false
	}
	mac := hmac.New(sha256.New, key)
	for _, part := range [][]byte{[]byte(h.Get("Webhook-Id")), []byte("."), []byte(h.Get("Webhook-Timestamp")), []byte("."), body} {
		_, _ = mac.Write(part) // never fails
	}
	return hmac.Equal([]byte(h.Get("Webhook-Signature")), []byte("v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil))))
}
