// Package integration proves the program against things that are not ours: a fake of Key Vault that its own maker
// publishes, certificates that another library has written, an identity provider that signs its own tokens, and a client
// made from the contract alone. The program is the built binary, reached and set up as an operator would.
//
// Its tests have the build tags integration and hostile, and are run by make integration and make hostile.
package integration
