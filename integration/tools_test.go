//go:build integration

package integration

import (
	"crypto/tls"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// tools is the folder into which make integration installs the tools of the tests.
const tools = "../.tools"

// tool returns the path of a file that make integration installs.
func tool(t *testing.T, elements ...string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(append([]string{tools}, elements...)...))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("%v: make integration installs it", err)
	}
	return path
}

// node returns a command that runs a script in the folder node, with the packages that it imports.
func node(t *testing.T, script string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("node", append([]string{tool(t, "node", script)}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	return cmd
}

// serveTLS serves h on loopback until the test ends, and returns its address and the certificate to trust.
func serveTLS(t *testing.T, h http.Handler) (*httptest.Server, []byte) {
	t.Helper()
	server := httptest.NewUnstartedServer(h)
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
}
