// Package integration tests the built program with third-party tools: the fake of Key Vault that Microsoft publishes,
// certificates written by another library, an identity provider that signs its own tokens, and a client generated
// from the contract. The program is the built binary, started and configured as an operator does it.
//
// Its tests have the build tags integration and hostile; make integration and make hostile run them.
package integration
