package app

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

// A step of the warm-up that panics ends no process, whatever its own parts catch.
func TestPanicOfAStep(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	a := &App{log: NewLog(&log, 0), warmUp: []func(context.Context) error{
		func(context.Context) error { panic("canary in a panic") },
	}}
	a.WarmUp(t.Context())
	if !strings.Contains(log.String(), "warm-up failed") || strings.Contains(log.String(), "canary") {
		t.Error(&log)
	}
}
