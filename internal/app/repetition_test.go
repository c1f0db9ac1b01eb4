package app_test

import (
	"bytes"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"autopilot-unassign/internal/azuresim"
)

// TestManyAtOnce has a delivery come a hundred times at once: Graph is asked to act once, and all get the same answer.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*sent){"signed": func(*sent) {}, "by key": byKey} {
		cloud := newCloud()
		cloud.Fail(azuresim.StepGraph, 1, azuresim.Delay(50*time.Millisecond))
		h := wired(t, cloud, &bytes.Buffer{}, "API_KEY_SECRET_NAMES", "api-key-flow")
		var mu sync.Mutex
		answers, fresh := map[string]int{}, 0
		var asking sync.WaitGroup
		for i := range 100 {
			asking.Go(func() {
				w := ask(t, h, post(validBody, change, delivery("msg_1"), header("Prefer", "return=representation"), header("X-Request-Id", fmt.Sprint(i))))
				mu.Lock()
				defer mu.Unlock()
				answers[fmt.Sprint(w.Code, w.Body)]++
				if w.Header().Get("Idempotent-Replayed") == "" {
					fresh++
				}
			})
		}
		asking.Wait()
		if n := cloud.Count(azuresim.StepGraph); n != 2 || fresh != 1 || len(answers) != 1 {
			t.Errorf("%s: Graph was asked %d times, %d answers are not repetitions, and there are the answers %v", name, n,
				fresh, answers)
		}
		for answer := range maps.Keys(answers) {
			if !strings.HasPrefix(answer, `200 {"code":"unassigned"`) {
				t.Errorf("%s: %s", name, answer)
			}
		}
	}
}
