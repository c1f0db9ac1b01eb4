//go:build noaws

package config

// withAWS is true if this build can sign in by a role of AWS.
const withAWS = false
