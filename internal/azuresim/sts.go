package azuresim

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"autopilot-unassign/internal/guid"
)

var stsService = service{ //nolint:gochecknoglobals // a table that nothing writes to
	name:   "sts",
	step:   func(*http.Request) Step { return StepSTS },
	answer: (*Cloud).serveSTS,
}

// Role is the AWS role of a function. It may request tokens of STS.
type Role struct {
	ARN                                        string
	AccessKeyID, SecretAccessKey, SessionToken string
	Issuer                                     string // of the account's tokens
	Region                                     string
}

// PutRole creates an AWS account with one role and outbound web identity federation.
func (c *Cloud) PutRole(arn string) Role {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.role = Role{
		ARN: arn, AccessKeyID: "ASIASIMULATED",
		SecretAccessKey: "simulated-" + guid.New().String(), SessionToken: "simulated-" + guid.New().String(),
		Issuer: "https://" + guid.New().String() + ".tokens.sts.global.api.aws", Region: "eu-west-1",
	}
	return c.role
}

// DisableFederation switches outbound web identity federation of the account off.
func (c *Cloud) DisableFederation() { c.changeLocked(func() { c.federationOff = true }) }

// Trust is a federated identity credential of an app. All three must match exactly.
type Trust struct{ Issuer, Subject, Audience string }

// SetTrust makes the app or managed identity with that client id trust these and no others.
func (c *Cloud) SetTrust(clientID string, trusted ...Trust) {
	c.changeLocked(func() { c.trust[clientID] = trusted })
}

// awsKey is the key that the simulated STS signs with.
var awsKey = sync.OnceValue(func() *rsa.PrivateKey { //nolint:gochecknoglobals // made once
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(fmt.Sprintf("azuresim: %v", err)) // only for an invalid size
	}
	return key
})

// stsAnswer returns a response of STS: an element with its content, which needs no escapes.
func stsAnswer(status int, element, format string, args ...any) answer {
	content := fmt.Sprintf(format, args...)
	body := fmt.Appendf(nil, `<%s xmlns="https://sts.amazonaws.com/doc/2011-06-15/">%s</%[1]s>`, element, content)
	return answer{status, http.Header{"Content-Type": {"text/xml"}}, body}
}

// stsError returns an error response of STS.
func stsError(status int, code, message string) answer {
	return stsAnswer(status, "ErrorResponse", "<Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error>"+
		"<RequestId>%s</RequestId>", code, message, guid.New())
}

// serveSTS serves the one action that the program calls.
func (c *Cloud) serveSTS(r *http.Request, body []byte) answer {
	form, err := url.ParseQuery(string(body))
	action, version := form.Get("Action"), form.Get("Version")
	if err != nil || r.Method != http.MethodPost || action != "GetWebIdentityToken" || version != "2011-06-15" {
		message := "The simulated STS issues tokens of roles and does nothing else."
		return stsError(http.StatusBadRequest, "InvalidAction", message)
	}
	if !c.signedByRole(r, body) {
		message := "The request signature we calculated does not match the signature you provided."
		return stsError(http.StatusForbidden, "SignatureDoesNotMatch", message)
	}
	life, err := strconv.Atoi(form.Get("DurationSeconds"))
	switch {
	case c.federationOff:
		message := "The outbound web identity federation feature is not enabled for this account."
		return stsError(http.StatusForbidden, "OutboundWebIdentityFederationDisabled", message)
	case form.Get("Audience.member.1") == "", form.Get("Audience.member.2") != "", err != nil, life < 60, life > 3600:
		return stsError(http.StatusBadRequest, "ValidationError", "One audience, and from 60 to 3600 seconds.")
	case form.Get("SigningAlgorithm") != "RS256":
		return stsError(http.StatusBadRequest, "ValidationError", "The simulated STS signs with RS256.")
	case life > 300: // the policy of the role
		message := "User is not authorized to perform: sts:GetWebIdentityToken"
		return stsError(http.StatusForbidden, "AccessDenied", message)
	}
	now := c.Now()
	token := signWith(awsKey(), Claims{
		"iss": c.role.Issuer, "aud": form.Get("Audience.member.1"), "sub": c.role.ARN, "jti": guid.New().String(),
		"iat": now.Unix(), "exp": now.Add(time.Duration(life) * time.Second).Unix(),
		"https://sts.amazonaws.com/": map[string]any{"source_region": c.role.Region},
	}, nil)
	return stsAnswer(http.StatusOK, "GetWebIdentityTokenResponse", "<GetWebIdentityTokenResult><WebIdentityToken>%s"+
		"</WebIdentityToken><Expiration>%s</Expiration></GetWebIdentityTokenResult>", token,
		now.Add(time.Duration(life)*time.Second).UTC().Format(time.RFC3339))
}

// signedByRole reports whether a request is signed with the credentials of the role: Signature Version 4
// (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html).
func (c *Cloud) signedByRole(r *http.Request, body []byte) bool {
	fields := map[string]string{}
	said, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	for field := range strings.SplitSeq(said, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
		fields[name] = value
	}
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	scope := at.Format("20060102") + "/" + c.role.Region + "/sts/aws4_request"
	if off := c.Now().Sub(at); !ok || err != nil || off > 5*time.Minute || off < -5*time.Minute ||
		fields["Credential"] != c.role.AccessKeyID+"/"+scope ||
		r.Header.Get("X-Amz-Security-Token") != c.role.SessionToken {
		return false
	}
	var headers strings.Builder
	names := strings.Split(fields["SignedHeaders"], ";")
	if !slices.Contains(names, "host") || !slices.Contains(names, "x-amz-security-token") {
		return false
	}
	for _, name := range names {
		value := r.Header.Get(name)
		switch name {
		case "host":
			value = r.Host
		case "content-length":
			value = strconv.FormatInt(r.ContentLength, 10)
		}
		fmt.Fprintf(&headers, "%s:%s\n", name, strings.TrimSpace(value))
	}
	hash := sha256.Sum256(body)
	canonical := strings.Join([]string{
		r.Method, "/", r.URL.RawQuery, headers.String(), fields["SignedHeaders"], hex.EncodeToString(hash[:]),
	}, "\n")
	hash = sha256.Sum256([]byte(canonical))
	key := []byte("AWS4" + c.role.SecretAccessKey)
	text := "AWS4-HMAC-SHA256\n" + r.Header.Get("X-Amz-Date") + "\n" + scope + "\n" + hex.EncodeToString(hash[:])
	for _, part := range append(strings.Split(scope, "/"), text) {
		mac := hmac.New(sha256.New, key)
		_, _ = mac.Write([]byte(part)) // never fails
		key = mac.Sum(nil)
	}
	return hmac.Equal([]byte(hex.EncodeToString(key)), []byte(fields["Signature"]))
}
