package vault

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
)

// oldVersion is an api-version that the vaults of all clouds know. Sovereign clouds learn new versions months after
// the SDK (azure-sdk-for-net#14788).
const oldVersion = "7.4"

// versionTTL is how long the old version is used before the SDK's own is tried again.
const versionTTL = time.Hour

// versioned sends a request again with oldVersion if the vault does not know the api-version of the SDK.
type versioned struct {
	next  policy.Transporter
	until atomic.Int64 // the time, in nanoseconds, until which oldVersion is used
}

func (v *versioned) Do(req *http.Request) (*http.Response, error) {
	if time.Now().UnixNano() < v.until.Load() {
		return v.next.Do(withOldVersion(req))
	}
	resp, err := v.next.Do(req)
	if err != nil || resp.StatusCode != http.StatusBadRequest {
		return resp, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, resp.Body, 64<<10))
	_ = resp.Body.Close()
	if err != nil {
		return nil, err
	}
	if unsupportedVersion(body) {
		v.until.Store(time.Now().Add(versionTTL).UnixNano())
		return v.next.Do(withOldVersion(req))
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// withOldVersion returns a copy of req for oldVersion, without the parameters that later versions have added.
func withOldVersion(req *http.Request) *http.Request {
	again := req.Clone(req.Context())
	query := again.URL.Query()
	query.Set("api-version", oldVersion)
	query.Del("outContentType")
	again.URL.RawQuery = query.Encode()
	return again
}

// unsupportedVersion reports whether a vault refuses the api-version ("The specified version (7.6) is not recognized").
func unsupportedVersion(body []byte) bool {
	text := strings.ToLower(string(body))
	return strings.Contains(text, "badparameter") && strings.Contains(text, "version") &&
		(strings.Contains(text, "not recognized") || strings.Contains(text, "not supported"))
}
