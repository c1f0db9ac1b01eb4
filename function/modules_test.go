package main

import (
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// linked are the modules that are in the program, with their licences. Add a new one here on purpose, and
// its reason to docs/design.md if it is a direct dependency.
var linked = map[string]string{
	"github.com/Azure/azure-sdk-for-go/sdk/azcore":                      "MIT",
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity":                  "MIT",
	"github.com/Azure/azure-sdk-for-go/sdk/internal":                    "MIT",
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets": "MIT",
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/internal":  "MIT",
	"github.com/AzureAD/microsoft-authentication-library-for-go":        "MIT",
	"github.com/aws/aws-lambda-go":                                      "Apache-2.0",
	"github.com/aws/aws-sdk-go-v2":                                      "Apache-2.0",
	"github.com/aws/aws-sdk-go-v2/internal/configsources":               "Apache-2.0",
	"github.com/aws/aws-sdk-go-v2/internal/endpoints/v2":                "Apache-2.0",
	"github.com/aws/aws-sdk-go-v2/internal/v4a":                         "Apache-2.0",
	"github.com/aws/aws-sdk-go-v2/service/internal/accept-encoding":     "Apache-2.0",
	"github.com/aws/aws-sdk-go-v2/service/internal/presigned-url":       "Apache-2.0",
	"github.com/aws/aws-sdk-go-v2/service/sts":                          "Apache-2.0",
	"github.com/aws/smithy-go":                                          "Apache-2.0",
	"github.com/golang-jwt/jwt/v5":                                      "MIT",
	"github.com/google/uuid":                                            "BSD-3-Clause",
	"github.com/kylelemons/godebug":                                     "Apache-2.0",
	"github.com/pkg/browser":                                            "BSD-2-Clause",
	"golang.org/x/crypto":                                               "BSD-3-Clause",
	"golang.org/x/net":                                                  "BSD-3-Clause",
	"golang.org/x/sync":                                                 "BSD-3-Clause",
	"golang.org/x/text":                                                 "BSD-3-Clause",
	"golang.org/x/time":                                                 "BSD-3-Clause",
	"software.sslmate.com/src/go-pkcs12":                                "BSD-3-Clause",
}

func TestLinkedModules(t *testing.T) {
	t.Parallel()
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	var modules []string
	for _, m := range info.Deps {
		modules = append(modules, m.Path)
		if m.Replace != nil {
			t.Errorf("%s is replaced by %s", m.Path, m.Replace.Path)
		}
	}
	if want := slices.Sorted(maps.Keys(linked)); !slices.Equal(modules, want) {
		t.Errorf("the program has the modules\n\t%s\nwant\n\t%s", strings.Join(modules, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// The licences are those that the modules come with, and such as may be passed on in a binary.
func TestLicences(t *testing.T) {
	t.Parallel()
	list, err := exec.Command("go", append([]string{"list", "-m", "-json"},
		slices.Sorted(maps.Keys(linked))...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for decoder := json.NewDecoder(strings.NewReader(string(list))); ; seen++ {
		var module struct{ Path, Dir string }
		if err := decoder.Decode(&module); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(module.Dir, "LICENSE*")) // others may lie beside the first, for parts of it
		if err != nil || len(files) == 0 {
			t.Errorf("%s has no licence: %v", module.Path, err)
			continue
		}
		text, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		if found := licence(string(text)); found == "" || found != linked[module.Path] {
			t.Errorf("%s comes under %q, want %q", module.Path, found, linked[module.Path])
		}
	}
	if seen != len(linked) {
		t.Errorf("%d modules are known of %d", seen, len(linked))
	}
}

// licence returns the name of a licence by a phrase that only it has, "" for one that is not permissive.
func licence(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	says := func(words string) bool { return strings.Contains(text, words) }
	switch {
	case says("Apache License Version 2.0, January 2004"):
		return "Apache-2.0"
	case says("Permission is hereby granted, free of charge"):
		return "MIT"
	case says("Redistribution and use in source and binary forms") && says("Neither the name of"):
		return "BSD-3-Clause"
	case says("Redistribution and use in source and binary forms"):
		return "BSD-2-Clause"
	}
	return ""
}
