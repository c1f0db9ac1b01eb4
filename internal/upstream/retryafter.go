package upstream

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// RetryAfter returns the longest wait that the headers of Microsoft's services ask for: retry-after-ms,
// x-ms-retry-after-ms, and Retry-After as seconds or a date. Graph has sent fractions of a second there
// (https://github.com/microsoftgraph/microsoft-graph-docs/issues/3877). It returns 0 without a valid header, and a
// day at most.
func RetryAfter(h http.Header, now time.Time) time.Duration {
	value := h.Get("Retry-After")
	longest := ParseWait(value, time.Second)
	for _, name := range []string{"Retry-After-Ms", "X-Ms-Retry-After-Ms"} {
		longest = max(longest, ParseWait(h.Get(name), time.Millisecond))
	}
	if at, err := http.ParseTime(value); err == nil {
		longest = max(longest, at.Sub(now))
	}
	return min(longest, maxWait)
}

const maxWait = 24 * time.Hour

// ParseWait parses a number of units, and returns 0 for anything else and a day at most.
func ParseWait(number string, unit time.Duration) time.Duration {
	n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || !(n > 0) { // which NaN is not
		return 0
	}
	return time.Duration(min(n, float64(maxWait/unit)) * float64(unit))
}
