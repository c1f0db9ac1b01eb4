//go:build hostile || soak

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"

	"autopilot-unassign/internal/azuresim"
)

// figures are the resources of a process as the system reports them.
type figures struct {
	rss, peak, threads, files int // of memory: KiB
}

func (f figures) String() string {
	return fmt.Sprintf("%d KiB resident, %d KiB at most, %d threads, %d files", f.rss, f.peak, f.threads, f.files)
}

var statusLine = regexp.MustCompile(`(?m)^(VmRSS|VmHWM|Threads):\s+(\d+)`)

func measure(t *testing.T, p *program) figures {
	t.Helper()
	proc := fmt.Sprintf("/proc/%d", p.pid())
	text, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		t.Fatal(err)
	}
	f := figures{files: len(files)}
	for _, m := range statusLine.FindAllSubmatch(text, -1) {
		n, _ := strconv.Atoi(string(m[2]))
		switch string(m[1]) {
		case "VmRSS":
			f.rss = n
		case "VmHWM":
			f.peak = n
		case "Threads":
			f.threads = n
		}
	}
	return f
}

func (p *program) pid() int {
	if p.host != nil {
		return p.host.WorkerPID()
	}
	return p.process.Process.Pid
}

// goroutines ends the process with the signal that prints its goroutines, and returns their number.
func goroutines(t *testing.T, p *program) int {
	t.Helper()
	if p.host != nil {
		p.host.End(syscall.SIGQUIT)
	} else {
		if err := p.process.Process.Signal(syscall.SIGQUIT); err != nil {
			t.Fatal(err)
		}
		_ = p.process.Wait() // which says that it has ended by the signal
	}
	return len(regexp.MustCompile(`(?m)^goroutine \d+ .*\[`).FindAllString(p.log(), -1))
}

// counts are the numbers of requests to the cloud, by step.
func counts(c *azuresim.Cloud) map[azuresim.Step]int {
	n := map[azuresim.Step]int{}
	for _, step := range []azuresim.Step{
		azuresim.StepIdentity, azuresim.StepChallenge, azuresim.StepSecret, azuresim.StepDiscovery, azuresim.StepToken, azuresim.StepKeys, azuresim.StepGraph,
	} {
		n[step] = c.Count(step)
	}
	return n
}
