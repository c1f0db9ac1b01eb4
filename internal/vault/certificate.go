package vault

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"
	"software.sslmate.com/src/go-pkcs12"

	"autopilot-unassign/internal/azsdk"
	"autopilot-unassign/internal/upstream"
)

// Certificate reads a certificate with its key, which Key Vault serves as a secret. It requests PEM, and repeats the
// request without that option for a vault that does not know it. It returns the errors of [Vault.Secret].
func (v *Vault) Certificate(ctx context.Context, name string) (Secret, error) {
	return v.readCertificate(ctx, name, "")
}

func (v *Vault) readCertificate(ctx context.Context, name, version string) (Secret, error) {
	s, err := v.readSecret(ctx, name, version, &azsecrets.GetSecretOptions{OutContentType: new(azsecrets.ContentTypePEM)})
	if failed, ok := errors.AsType[*upstream.Error](err); ok && failed.Status == http.StatusBadRequest {
		return v.readSecret(ctx, name, version, nil)
	}
	return s, err
}

// maxOlderVersions limits the versions that OlderCertificates reads: a certificate renews itself once in months.
const maxOlderVersions = 3

// OlderCertificates returns the enabled versions of a certificate that were created before current and have not
// expired, the newest first. It lists the versions, as the role Key Vault Secrets User allows (the data action
// secrets/readMetadata); an access policy needs the permission "list".
func (v *Vault) OlderCertificates(ctx context.Context, name, current string) ([]Secret, error) {
	versions, err := v.listVersions(ctx, name)
	if err != nil {
		return nil, err
	}
	var older []Secret
	i := slices.IndexFunc(versions, func(p *azsecrets.SecretProperties) bool { return versionOf(p.ID) == current })
	for _, p := range versions[i+1:] {
		a := p.Attributes
		if len(older) == maxOlderVersions || a.Enabled == nil || !*a.Enabled || a.Expires != nil &&
			a.Expires.Before(time.Now()) {
			continue
		}
		s, err := v.readCertificate(ctx, name, versionOf(p.ID))
		if err != nil {
			return older, err
		}
		older = append(older, s)
	}
	return older, nil
}

// listVersions returns the properties of all versions of a secret, the newest first.
func (v *Vault) listVersions(ctx context.Context, name string) ([]*azsecrets.SecretProperties, error) {
	ctx, cancel := context.WithTimeout(ctx, v.options.Share(azsdk.VaultShare))
	defer cancel()
	ctx, seen := azsdk.Watch(ctx)
	var versions []*azsecrets.SecretProperties
	for pager := v.client.NewListSecretPropertiesVersionsPager(name, nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, reduceVault(err, seen, name)
		}
		for _, p := range page.Value {
			if p != nil && p.ID != nil && p.Attributes != nil && p.Attributes.Created != nil {
				versions = append(versions, p)
			}
		}
	}
	slices.SortStableFunc(versions, func(a, b *azsecrets.SecretProperties) int {
		return b.Attributes.Created.Compare(*a.Attributes.Created)
	})
	return versions, nil
}

// certificateError names the fault of a certificate in fixed words.
type certificateError string

func (e certificateError) Error() string { return string(e) }

// FaultOf returns the fault of a certificate or secret in fixed words. Another error may hold a part of the secret.
func FaultOf(err error) string {
	if known, ok := errors.AsType[certificateError](err); ok {
		return string(known)
	}
	return "cannot be used to sign in"
}

// KeyPair returns the certificate of s with its RSA key, in PEM or as PKCS#12 in base64 without a password. The certificate
// that the key belongs to comes first, then the others that there are. The error names the fault in fixed words.
func (s Secret) KeyPair() ([]*x509.Certificate, crypto.PrivateKey, error) {
	parse := parsePKCS12
	if strings.Contains(s.value, "-----BEGIN ") {
		parse = parsePEM
	}
	certs, key, err := parse(s.value)
	if err != nil {
		return nil, nil, err
	}
	private, ok := key.(*rsa.PrivateKey)
	switch {
	case key == nil:
		return nil, nil, certificateError("has no private key")
	case !ok:
		return nil, nil, certificateError("has a key that is not RSA")
	}
	for i, cert := range certs {
		if private.PublicKey.Equal(cert.PublicKey) {
			certs[0], certs[i] = certs[i], certs[0]
			return certs, private, nil
		}
	}
	return nil, nil, certificateError("has no certificate that its key belongs to")
}

// restoreLines returns PEM with the line ends that a tool removed, or wrote as the characters \\n, and without quotes
// round it (azure-docs#37025).
func restoreLines(text string) []byte {
	text = strings.Trim(strings.NewReplacer(`\r`, "", `\n`, "\n").Replace(text), "\"' \t\r\n")
	var restored strings.Builder
	for {
		_, rest, found := strings.Cut(text, "-----BEGIN ")
		kind, rest, isBegin := strings.Cut(rest, "-----")
		body, rest, isEnd := strings.Cut(rest, "-----END "+kind+"-----")
		if !found || !isBegin || !isEnd {
			return []byte(restored.String())
		}
		restored.WriteString("-----BEGIN " + kind + "-----\n" + strings.Join(strings.Fields(body), "\n") + "\n-----END " +
			kind + "-----\n")
		text = rest
	}
}

func parsePEM(text string) (certs []*x509.Certificate, key any, err error) {
	for rest := restoreLines(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return certs, key, nil
		}
		switch block.Type {
		case "CERTIFICATE":
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, nil, certificateError("has a certificate that cannot be read")
			}
			certs = append(certs, cert)
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		}
		if err != nil {
			return nil, nil, certificateError("has a key that cannot be read")
		}
	}
}

func parsePKCS12(text string) (certs []*x509.Certificate, key any, err error) {
	file, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		return nil, nil, certificateError("is neither PEM nor PKCS#12 in base64")
	}
	key, leaf, others, err := pkcs12.DecodeChain(file, "")
	if err != nil {
		return nil, nil, certificateError("is no PKCS#12 file with a key and without a password")
	}
	return append([]*x509.Certificate{leaf}, others...), key, nil
}
