package azuresim

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"autopilot-unassign/internal/guid"
)

var vaultService = service{ //nolint:gochecknoglobals // a table that nothing writes to
	name: "vault",
	step: func(r *http.Request) Step {
		if r.Header.Get("Authorization") == "" {
			return StepChallenge
		}
		return StepSecret
	},
	answer: (*Cloud).serveVault,
}

// vaultSuffixes are the domains of Key Vault in Azure's clouds.
var vaultSuffixes = []string{ //nolint:gochecknoglobals // never written
	"vault.azure.net", "vault.usgovcloudapi.net", "vault.azure.cn",
}

// Secret is a version of a secret.
type Secret struct {
	Value, ContentType string
	Expires            time.Time // zero: never. An expired secret is served all the same, as Key Vault does.
	Disabled           bool
}

type stored struct {
	Secret
	version string
	created time.Time
}

// PutSecret stores s as the current version of the secret with that name, and returns the version's id.
func (c *Cloud) PutSecret(name string, s Secret) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	version := strings.ReplaceAll(guid.New().String(), "-", "")
	c.secrets[name] = append(c.secrets[name], stored{s, version, c.Now()})
	return version
}

// DeleteSecret removes all versions of a secret.
func (c *Cloud) DeleteSecret(name string) { c.changeLocked(func() { delete(c.secrets, name) }) }

// vaultError returns an error response of Key Vault. The inner code may be empty.
func vaultError(status int, code, inner, message string) answer {
	e := map[string]any{"code": code, "message": message}
	if inner != "" {
		e["innererror"] = map[string]string{"code": inner}
	}
	return jsonAnswer(status, map[string]any{"error": e})
}

func (c *Cloud) serveVault(r *http.Request, _ []byte) answer {
	resource := "https://" + vaultSuffixes[0]
	for _, suffix := range vaultSuffixes {
		if strings.HasSuffix(r.Host, "."+suffix) {
			resource = "https://" + suffix
		}
	}
	claims, ok := c.claimsOf(r)
	if !ok || claims["aud"] != resource {
		message := "AKV10000: Request is missing a Bearer or PoP token."
		a := vaultError(http.StatusUnauthorized, "Unauthorized", "", message)
		authority := "https://login.microsoftonline.com/" + c.TenantID
		a.header.Set("WWW-Authenticate", `Bearer authorization="`+authority+`", resource="`+resource+`"`)
		return a
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/secrets/")
	name, version, _ := strings.Cut(strings.TrimSuffix(path, "/"), "/")
	if !ok || r.Method != http.MethodGet {
		message := "The simulated vault reads secrets and does nothing else."
		return vaultError(http.StatusBadRequest, "BadParameter", "", message)
	}
	if claims["appid"] != c.IdentityClientID {
		message := "Caller is not authorized to perform action on resource."
		return vaultError(http.StatusForbidden, "Forbidden", "ForbiddenByRbac", message)
	}
	if version == "versions" {
		return c.listVersions(r.Host, name)
	}
	for _, s := range slices.Backward(c.secrets[name]) {
		if version != "" && version != s.version {
			continue
		}
		if s.Disabled {
			message := "Operation get is not allowed on a disabled secret."
			return vaultError(http.StatusForbidden, "Forbidden", "SecretDisabled", message)
		}
		created := s.created.Unix()
		attributes := map[string]any{
			"enabled": true, "created": created, "updated": created, "recoveryLevel": "Recoverable",
		}
		if !s.Expires.IsZero() {
			attributes["exp"] = s.Expires.Unix()
		}
		return jsonAnswer(http.StatusOK, map[string]any{
			"value": s.Value, "contentType": s.ContentType, "attributes": attributes,
			"id": "https://" + r.Host + "/secrets/" + name + "/" + s.version,
		})
	}
	message := "A secret with (name/id) " + name + " was not found in this key vault."
	return vaultError(http.StatusNotFound, "SecretNotFound", "", message)
}

// listVersions returns the properties of all versions of a secret on one page, in no order of time, as Key Vault does.
func (c *Cloud) listVersions(host, name string) answer {
	versions := []map[string]any{}
	for _, s := range c.secrets[name] {
		attributes := map[string]any{"enabled": !s.Disabled, "created": s.created.Unix(), "updated": s.created.Unix()}
		if !s.Expires.IsZero() {
			attributes["exp"] = s.Expires.Unix()
		}
		versions = append(versions, map[string]any{
			"id": "https://" + host + "/secrets/" + name + "/" + s.version, "attributes": attributes,
		})
	}
	return jsonAnswer(http.StatusOK, map[string]any{"value": versions, "nextLink": nil})
}
