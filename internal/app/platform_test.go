package app_test

import (
	"errors"
	"testing"
	"testing/fstest"

	"autopilot-unassign/internal/app"
	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/hosttest/simulated"
)

func TestPlatformAuthIsRefusedOnAnAnonymousHost(t *testing.T) {
	t.Parallel()
	function := func(level string) fstest.MapFS {
		return fstest.MapFS{
			"unassign/function.json": {Data: []byte(`{"bindings":[{"type":"httpTrigger","authLevel":"` + level +
				`"},{"type":"http"}]}`)},
			"health/function.json": {Data: []byte(`{"bindings":[{"type":"httpTrigger","authLevel":"anonymous"}]}`)},
		}
	}
	for name, test := range map[string]struct {
		host, auth, address string
		dir                 fstest.MapFS
		want                error
	}{
		"an anonymous package":              {config.Azure, "platform", "", function("anonymous"), app.ErrAnonymousPackage},
		"a package with keys":               {config.Azure, "platform", "", function("function"), nil},
		"an anonymous package, confirmed":   {config.Azure, "platform-anonymous", "", function("anonymous"), nil},
		"Lambda, where IAM authenticates":   {config.Lambda, "platform", "", nil, nil},
		"an address of the network":         {config.Local, "platform", "0.0.0.0:8080", nil, app.ErrAnonymousAddress},
		"every address":                     {config.Local, "platform", ":8080", nil, app.ErrAnonymousAddress},
		"an address of the network, agreed": {config.Local, "platform-anonymous", "0.0.0.0:8080", nil, nil},
		"loopback":                          {config.Local, "platform", "127.0.0.1:8080", nil, nil},
		"loopback by name":                  {config.Local, "platform", "localhost:8080", nil, nil},
		"our own verifiers":                 {config.Azure, "verify", "", function("anonymous"), nil},
	} {
		settings := []string{"AUTH", test.auth, "VAULT_CREDENTIAL", "managed-identity"}
		if test.auth != "verify" {
			settings = append(settings, "WEBHOOK_SECRET_NAMES", "")
		}
		c, err := config.Load(simulated.Minimal(settings...), test.host)
		if err != nil {
			t.Fatal(err)
		}
		if err := app.CheckPlatformAuth(c, test.address, test.dir); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}
