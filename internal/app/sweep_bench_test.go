package app_test

import (
	"io"
	"testing"
	"time"

	"autopilot-unassign/graph"
	"autopilot-unassign/internal/azuresim"
)

// answerTime is the assumed time of a response of the cloud. It is added up, or slept in simulated time.
const answerTime = 50 * time.Millisecond

// BenchmarkSweep finds the thousand devices of ten thousand that are meant and takes their accounts off: as a sweep
// does it, with twenty to a request, and as one does it by hand, with a request for each. The pace, which Graph's
// limit on writes sets for both, is left out.
//
// Beside the usual figures it reports the requests to Graph, and how long they would take one after the other if each
// answer took 50 ms.
func BenchmarkSweep(b *testing.B) {
	const size, matching = 10_000, 1000
	for name, each := range map[string]int{"twenty to a request": 20, "one to a request": 1} {
		b.Run(name, func(b *testing.B) {
			cloud := newEmptyCloud()
			program, _ := assemble(b, cloud, nil, io.Discard)
			devices := program.Devices
			b.ReportAllocs()
			var requests int
			for b.Loop() {
				b.StopTimer()
				cloud.PutFleet(size)
				before := cloud.Count(azuresim.StepGraph)
				b.StartTimer()
				var ids []graph.DeviceID
				for d, err := range devices.All(b.Context()) {
					if err != nil {
						b.Fatal(err)
					}
					if d.GroupTag == azuresim.FleetTag && d.Account.Assigned() {
						ids = append(ids, d.ID)
					}
				}
				done := 0
				for start := 0; start < len(ids); start += each {
					for _, result := range devices.UnassignResourceAccount(b.Context(), ids[start:min(start+each, len(ids))]...) {
						if result.Err == nil {
							done++
						}
					}
				}
				if done != matching {
					b.Fatalf("%d devices are done", done)
				}
				requests += cloud.Count(azuresim.StepGraph) - before
			}
			perSweep := float64(requests) / float64(b.N)
			b.ReportMetric(perSweep, "requests/op")
			b.ReportMetric(perSweep*answerTime.Seconds(), "s-of-answers/op")
		})
	}
}
