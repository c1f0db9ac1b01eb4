package caller

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// FuzzClaims checks any claims without their signature, which a fuzzer could not produce.
// Properties:
//  1. It does not panic.
//  2. An accepted token has the tenant's issuer, an accepted audience and the role, and for a user also the scope.
//  3. The id of an accepted or forbidden caller consists of GUIDs.
func FuzzClaims(f *testing.F) {
	const (
		tenant   = "11111111-2222-4333-8444-555555555555"
		audience = "api://contoso.com/unassign"
		app      = "aaaaaaaa-0000-4000-8000-000000000001"
		user     = "bbbbbbbb-0000-4000-8000-000000000002"
		issuerV1 = "https://sts.windows.net/" + tenant + "/"
		issuerV2 = "https://login.microsoftonline.com/" + tenant + "/v2.0"
	)
	v := &Token{
		Tenants: []string{tenant}, Audiences: []string{audience}, Role: "Device.Unassign", Scope: "user_impersonation",
		IssuerV1: "https://sts.windows.net/", IssuerV2: "https://login.microsoftonline.com/",
	}
	for _, more := range []string{
		fmt.Sprintf(`"ver":"1.0","iss":%q,"appid":%q`, issuerV1, app),
		fmt.Sprintf(`"ver":"2.0","iss":%q,"azp":%q,"idtyp":"app"`, issuerV2, app),
		fmt.Sprintf(`"ver":"1.0","iss":%q,"appid":%q,"oid":%q,"scp":"user_impersonation"`, issuerV1, app, user),
		fmt.Sprintf(`"ver":"2.0","iss":%q,"azp":%q,"oid":%q,"scp":"email user_impersonation","idtyp":"user"`, issuerV2, app, user),
	} {
		text := fmt.Sprintf(`{"aud":%q,"tid":%q,"exp":1795525200,"roles":["Device.Unassign"],%s}`, audience, tenant, more)
		f.Add(text)
		f.Add(strings.Replace(text, `"roles"`, `"Roles"`, 1))
		f.Add(strings.Replace(text, `"roles":`, `"roles":["x"],"roles":`, 1))
		f.Add(strings.Replace(text, `"aud":"`, `"aud":"https://graph.microsoft.com","x":"`, 1))
		f.Add(strings.ReplaceAll(text, tenant, user))
		f.Add(strings.ReplaceAll(text, app, `../`))
	}
	f.Add(`{}`)
	f.Add(`null`)
	f.Add(`{"exp":1e400,"roles":[null],"scp":""}`)
	f.Fuzz(func(t *testing.T, text string) {
		var c claims
		if json.Unmarshal([]byte(text), &c) != nil || v.checkClaims(&c) != nil {
			return
		}
		who, err := v.authorise(&c)
		if strings.Trim(strings.NewReplacer("user:", "", "app:", "").Replace(who.ID), "0123456789abcdef-,") != "" {
			t.Fatalf("the caller is %q", who.ID)
		}
		if err != nil {
			return
		}
		var m map[string]any
		if err := json.Unmarshal([]byte(text), &m); err != nil {
			t.Fatalf("accepted what is no JSON: %q", text)
		}
		roles, _ := m["roles"].([]any)
		scopes, delegated := m["scp"].(string)
		switch {
		case m["tid"] != tenant, m["iss"] != issuerV1 && m["iss"] != issuerV2, m["aud"] != audience,
			!slices.Contains(roles, any("Device.Unassign")), delegated && !slices.Contains(strings.Fields(scopes), "user_impersonation"),
			!delegated && m["idtyp"] == "user", delegated && m["idtyp"] == "app", who.ID == "":
			t.Fatalf("accepted %q as %q", text, who.ID)
		}
	})
}
