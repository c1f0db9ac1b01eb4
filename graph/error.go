package graph

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"autopilot-unassign/internal/upstream"
)

// failure reduces an answer of Graph that is no success, of which body could be read, to an *upstream.Error. The answer may
// be one of those inside the answer to a batch.
//
// The status decides. The body refines it where it can be understood, which is never certain: Intune's errors come
// plain, as JSON inside the message, as JSON inside JSON inside the message, as HTML inside the message, with a code that
// is a sentence, or not as JSON at all.
func failure(status int, header http.Header, body []byte) *upstream.Error {
	said := parseErrorBody(body)
	e := &upstream.Error{
		Service:    upstream.Graph,
		Status:     status,
		Code:       upstream.PlainCode(said.code),
		RequestID:  upstream.PlainCode(header.Get("request-id")),
		RetryAfter: upstream.RetryAfter(header, time.Now()),
	}
	if e.RetryAfter == 0 {
		e.RetryAfter = said.retryAfter
	}
	switch {
	case status < 400:
		e.Reason = upstream.BadAnswer
	case status == http.StatusServiceUnavailable, status == http.StatusRequestTimeout:
		e.Reason = upstream.Unavailable
	case status == http.StatusGatewayTimeout:
		e.Reason = upstream.Timeout
	case status >= 500:
		e.Reason = upstream.Internal
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		e.Reason = upstream.Forbidden
	case status == http.StatusTooManyRequests:
		e.Reason = upstream.Throttled
	case status == http.StatusConflict:
		e.Reason = upstream.Conflict
	case status == http.StatusPreconditionFailed:
		e.Reason = upstream.StateChanged
	case status == http.StatusLocked:
		e.Reason = upstream.Locked
	case said.mentions("Request not applicable to target tenant"):
		e.Reason = upstream.TenantNotEnabled
	case said.mentions("Invalid version:"): // the root of the endpoint is wrong: it says nothing of the device
		e.Reason = upstream.Rejected
	case status == http.StatusNotFound, said.code == "ResourceNotFound", said.mentions("Cannot find device"):
		e.Reason = upstream.NotFound
	case said.code == "InternalError", said.code == "InternalServerError":
		e.Reason = upstream.Internal
	default:
		e.Reason = upstream.Rejected
	}
	switch e.Reason {
	case upstream.Internal, upstream.Timeout, upstream.BadAnswer:
		e.MaybeDone = true
	}
	return e
}

// errorText is what could be understood of the body of a failure.
type errorText struct {
	code       string
	message    string // of all levels, for mentions alone: it is never shown nor logged
	retryAfter time.Duration
}

func (t errorText) mentions(phrase string) bool {
	return strings.Contains(strings.ToLower(t.message), strings.ToLower(phrase))
}

// parseErrorBody reads the body of a failure as far as it can.
func parseErrorBody(body []byte) errorText {
	var outer struct {
		Error struct{ Code, Message string }
	}
	if json.Unmarshal(body, &outer) != nil {
		return errorText{}
	}
	text := errorText{code: outer.Error.Code, message: outer.Error.Message}
	inner := outer.Error.Message
	for range 3 { // levels of JSON in a message; two have been seen
		var nested struct {
			ErrorCode  string
			Message    string
			RetryAfter any
		}
		if json.Unmarshal([]byte(inner), &nested) != nil {
			break
		}
		if nested.ErrorCode != "" && (text.code == "" || text.code == "UnknownError") {
			text.code = nested.ErrorCode
		}
		if text.retryAfter == 0 {
			text.retryAfter = seconds(nested.RetryAfter)
		}
		text.message += "\n" + nested.Message
		inner = nested.Message
	}
	return text
}

// seconds reads what Intune writes as RetryAfter: null, a number, or a number in a string.
func seconds(v any) time.Duration {
	var s float64
	switch v := v.(type) {
	case float64:
		s = v
	case string:
		s, _ = strconv.ParseFloat(strings.TrimSpace(v), 64)
	}
	if s > 0 && s < 24*60*60 {
		return time.Duration(s * float64(time.Second))
	}
	return 0
}
