//go:build templates

package infra_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

var update = flag.Bool("update", false, "write azuredeploy.json, the snapshots and the button instead of comparing them")

// compiler is a Bicep compiler that stays: its start costs more than a compilation.
type compiler struct {
	mu  sync.Mutex
	in  io.Writer
	out *bufio.Reader
}

var startCompiler = sync.OnceValues(func() (*compiler, error) {
	path := "../../shared/tools/bicep/bicep"
	if _, err := os.Stat(path); err != nil {
		home, _ := os.UserHomeDir()
		path, err = exec.LookPath("bicep")
		if err != nil {
			path, err = exec.LookPath(filepath.Join(home, ".azure", "bin", "bicep")) // of "az bicep install"
		}
		if err != nil {
			return nil, errors.New("no Bicep compiler: az bicep install --version v0.49.2")
		}
	}
	command := exec.Command(path, "jsonrpc", "--stdio") // ends with its standard input
	command.Env = append(os.Environ(), "DOTNET_SYSTEM_GLOBALIZATION_INVARIANT=1")
	in, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &compiler{in: in, out: bufio.NewReader(out)}, command.Start()
})

func bicepCompiler(t *testing.T) *compiler {
	t.Helper()
	c, err := startCompiler()
	if err != nil {
		t.Skip(err)
	}
	return c
}

// call sends a JSON-RPC request and decodes its result.
func (c *compiler) call(method string, params, result any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(c.in, "Content-Length: %d\r\n\r\n%s", len(body), body); err != nil {
		return err
	}
	header, err := textproto.NewReader(c.out).ReadMIMEHeader()
	if err != nil {
		return err
	}
	size, err := strconv.Atoi(header.Get("Content-Length"))
	if err != nil {
		return err
	}
	answer := make([]byte, size)
	if _, err := io.ReadFull(c.out, answer); err != nil {
		return err
	}
	var envelope struct {
		Result json.RawMessage
		Error  *struct{ Message string }
	}
	if err := json.Unmarshal(answer, &envelope); err != nil {
		return err
	}
	if envelope.Error != nil {
		return errors.New(envelope.Error.Message)
	}
	return json.Unmarshal(envelope.Result, result)
}

// compile returns the template in JSON and everything that the compiler says about it.
func (c *compiler) compile(path string) (template string, diagnostics []string, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return "", nil, err
	}
	var result struct {
		Success     bool
		Contents    string
		Diagnostics []struct {
			Source, Level, Code, Message string
			Range                        struct{ Start struct{ Line int } }
		}
	}
	if err := c.call("bicep/compile", map[string]any{"path": path}, &result); err != nil {
		return "", nil, err
	}
	for _, d := range result.Diagnostics {
		diagnostics = append(diagnostics, fmt.Sprintf("%s:%d: %s %s: %s", filepath.Base(d.Source), d.Range.Start.Line+1, d.Level, d.Code, d.Message))
	}
	return result.Contents, diagnostics, nil
}

// snapshot evaluates a parameters file as Azure Resource Manager does.
func (c *compiler) snapshot(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	var result struct{ Snapshot string }
	err = c.call("bicep/getSnapshot", map[string]any{"path": path, "metadata": map[string]string{
		"tenantId": "22222222-2222-4222-8222-222222222222", "subscriptionId": "11111111-1111-4111-8111-111111111111",
		"resourceGroup": "rg-unassign", "location": "westeurope",
	}}, &result)
	return result.Snapshot, err
}

// compare holds a file to its wanted text, or writes it with -update.
func compare(t *testing.T, path, want string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s is not what the template gives (%v): make azuredeploy, and look at the difference", path, err)
	}
}

// Any word of the compiler is a failure. A fault of its published types is argued in the line above.
func TestBicepCompiles(t *testing.T) {
	c := bicepCompiler(t)
	files, err := filepath.Glob("azure/*.bicep")
	if err != nil || len(files) < 4 {
		t.Fatal(files, err)
	}
	argued := regexp.MustCompile(`#disable-next-line [\w-]+ // \S+`)
	for _, path := range files {
		text := read(t, path)
		if strings.Count(text, "#disable") != len(argued.FindAllString(text, -1)) {
			t.Errorf("%s disables a rule without a reason", path)
		}
		_, diagnostics, err := c.compile(path)
		if err != nil || len(diagnostics) > 0 {
			t.Errorf("%s: %v\n%s", path, err, strings.Join(diagnostics, "\n"))
		}
	}
}

// The button and the command of docs/azure.md deploy azuredeploy.json.
func TestAzureDeployIsCompiled(t *testing.T) {
	got, _, err := bicepCompiler(t).compile("azure/main.bicep")
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		compare(t, "azure/azuredeploy.json", got+"\n")
		return
	}
	if !reflect.DeepEqual(withoutGenerator(t, got), withoutGenerator(t, read(t, "azure/azuredeploy.json"))) {
		t.Error("azuredeploy.json is not main.bicep compiled: make azuredeploy")
	}
}

// With -update the pages get the addresses of the release.
func TestAzureDeployPages(t *testing.T) {
	for _, name := range releasePages(t) {
		compare(t, name, withRelease(read(t, name), releaseOf(t)))
	}
}

// withoutGenerator decodes a template and drops the compiler's version and hash.
func withoutGenerator(t *testing.T, text string) any {
	t.Helper()
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatal(err)
	}
	var drop func(any)
	drop = func(value any) {
		switch value := value.(type) {
		case map[string]any:
			delete(value, "_generator")
			for inside := range maps.Values(value) {
				drop(inside)
			}
		case []any:
			for _, inside := range value {
				drop(inside)
			}
		}
	}
	drop(value)
	return value
}

func TestBicepSnapshots(t *testing.T) {
	c := bicepCompiler(t)
	files, err := filepath.Glob("azure/snapshots/*.bicepparam")
	if err != nil || len(files) != 9 {
		t.Fatal(files, err)
	}
	for _, path := range files {
		got, err := c.snapshot(path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		// The compiler gives the outputs in any order.
		var value any
		if err := json.Unmarshal([]byte(got), &value); err != nil {
			t.Fatal(err)
		}
		var sorted bytes.Buffer
		encoder := json.NewEncoder(&sorted)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(value); err != nil {
			t.Fatal(err)
		}
		name, _ := strings.CutSuffix(path, ".bicepparam")
		compare(t, name+".snapshot.json", sorted.String())
	}
}

// copyTemplate copies the Bicep files into a folder of the test and returns it.
func copyTemplate(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, pattern := range []string{"azure/*.bicep", "azure/*.json"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range files {
			put(t, dir, filepath.Base(path), read(t, path))
		}
	}
	return dir
}

// Each combination that cannot work stops the deployment before its first resource, and the message names the parameter.
func TestBicepRefuses(t *testing.T) {
	c, dir := bicepCompiler(t), copyTemplate(t)
	app, signature := "graphClientId = '33333333-3333-4333-8333-333333333333'", "webhookSecretNames = 'webhook-a'"
	repository := "repository = 'https://github.com/contoso/autopilot-unassign'"
	for says, params := range map[string][]string{
		"graphSecretName and graphCertificateName are for graphCredential=vault": {repository, signature, app, "graphSecretName = 'a'"},
		"graphCredential=vault needs either graphSecretName or":                  {repository, signature, app, "graphCredential = 'vault'"},
		"graphCredential=vault needs graphClientId":                              {repository, signature, "graphCredential = 'vault'", "graphSecretName = 'a'"},
		"graphTenantId is not the tenant of the subscription":                    {repository, signature, "graphTenantId = '44444444-4444-4444-8444-444444444444'"},
		"No caller could be authenticated":                                       {repository},
		"entraTenantId, entraRole and entraScope need entraAudience":             {repository, signature, "entraRole = 'Other'"},
		"sweepApply=true needs sweepGroupTag":                                    {repository, signature, "sweepApply = 'true'"},
		"existingKeyVaultId excludes keyVaultName and vaultRecover": {
			repository, signature, "vaultRecover = 'true'",
			"existingKeyVaultId = '/subscriptions/11111111-1111-4111-8111-111111111111/resourceGroups/g/providers/Microsoft.KeyVault/vaults/v'",
		},
		"The template does not know its repository": {signature, "repository = 'https://github.com/OWNER/autopilot-unassign'"},
	} {
		put(t, dir, "refused.bicepparam", "using 'main.bicep'\nparam "+strings.Join(params, "\nparam "))
		if got, err := c.snapshot(filepath.Join(dir, "refused.bicepparam")); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v: %v, want %q\n%.80s", params, err, says, got)
		}
	}
	if got, want := strings.Count(read(t, "azure/main.bicep"), "fail('"), 9; got != want {
		t.Errorf("main.bicep has %d refusals, %d are tested", got, want)
	}
}

// A fault in the template is found: by the compiler, by a published value, or because a snapshot changes.
func TestBicepFindsPlantedFaults(t *testing.T) {
	c := bicepCompiler(t)
	for name, fault := range map[string]struct{ old, planted, says string }{
		"a misspelt property":      {"enableRbacAuthorization: true", "enableRbacAuthorisation: true", "BCP089"},
		"another one":              {"instanceMemoryMB: instanceMemoryMB", "instanceMemory: instanceMemoryMB", "BCP0"},
		"an impossible version":    {"vaults@2023-07-01' =", "vaults@2024-13-01' =", "BCP"},
		"a wrong plan":             {"name: 'FC1'", "name: 'FC9'", "Microsoft.Web/serverfarms: sku is FC9"},
		"a wrong storage SKU":      {"Standard_LRS", "Standard_LSR", "Microsoft.Storage/storageAccounts: sku.name is Standard_LSR"},
		"a wrong runtime":          {"name: 'custom'", "name: 'costum'", "runtime is map[name:costum"},
		"a wrong role id":          {"4633458b-17de-408a-b874-0445c86b69e6", "4633458b-17de-408a-b874-0445c86b69e7", "no built-in role has the id"},
		"a property that Flex has": {"http20Enabled: true", "http20Enabled: true\n      ftpsState: 'Disabled'", "error 51021"},
		"no etag":                  {"etag: '*'", "tags: []", "409"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copyTemplate(t)
			text := strings.Replace(read(t, "azure/main.bicep"), fault.old, fault.planted, 1)
			if !strings.Contains(text, fault.planted) {
				t.Fatalf("main.bicep does not have %q", fault.old)
			}
			put(t, dir, "main.bicep", text)
			_, found, err := c.compile(filepath.Join(dir, "main.bicep"))
			if err != nil {
				t.Fatal(err)
			}
			if len(found) == 0 {
				put(t, dir, "planted.bicepparam", strings.Replace(read(t, "azure/snapshots/signature.bicepparam"), "../main.bicep", "main.bicep", 1))
				got, err := c.snapshot(filepath.Join(dir, "planted.bicepparam"))
				if err != nil {
					t.Fatal(err)
				}
				found = templateFaults(parseSnapshot(t, got))
			}
			if !slices.ContainsFunc(found, func(line string) bool { return strings.Contains(line, fault.says) }) {
				t.Errorf("found %q, want %q", found, fault.says)
			}
		})
	}
}

// Microsoft's own parser accepts every query, with the columns of the tables.
func TestKQLParses(t *testing.T) {
	const modules = "../.tools/kql"
	if _, err := os.Stat(filepath.Join(modules, "node_modules")); err != nil {
		t.Skip("no Kusto language service: make templates installs it")
	}
	planted := map[string]string{ // and the code of the fault
		"AppTraces | project kind = Message":           "KS228",
		"StorageQueueLogs | where OperationNam == 'x'": "KS142",
		"AppTraces | whre 1 == 1":                      "KS176",
		"AppTrace | take 1":                            "KS204",
		"AppTraces | summarize c = count(":             "KS005",
	}
	type query struct {
		Name  string `json:"name"`
		Query string `json:"query"`
	}
	var list []query
	for name, text := range kqlQueries(t) {
		list = append(list, query{name, text})
	}
	for text := range planted {
		list = append(list, query{"planted " + text, text})
	}
	input, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), "node", "azure/kql/check.mjs", modules)
	command.Stdin = bytes.NewReader(input)
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	for line := range strings.Lines(string(output)) {
		if !strings.HasPrefix(line, "planted ") {
			t.Error(line)
		}
	}
	for text, code := range planted {
		if !strings.Contains(string(output), "planted "+text+": "+code+" ") {
			t.Errorf("%s: no %s in\n%s", text, code, output)
		}
	}
}
